"""A dump of one schema, made ready for a schema of whatever name. Standard library only.

    schema_names.py SCHEMA < DUMP      blank: it stays where the dump says

What mariadb-dump and mysqldump write is not always what their clients and servers take back:

- A trigger that was made by its full name carries that: it would go to the schema of that name. It is taken out of the
  trigger's head; what the trigger does stays as it is. Views with a table of another schema in them, and defaults that
  take the next of a sequence, name their own schema, and so does what changes its default collation: it becomes SCHEMA.
- Triggers and events stand in /*! */, in which clients lose track of comments and strings: they are taken out of it.
- A view WITH CHECK OPTION on one that comes later is refused: it gets the option once all are there.
- A default that takes the next of a sequence is refused while tables are locked: none is.
- Dates that do not exist, which a server may have been told to keep, would become 0000-00-00.
"""

import re
import signal
import sys

DEFAULT = re.compile(rb"ALTER DATABASE `(?:[^`]|``)+`( CHARACTER SET \w+ COLLATE \w+ (;+)\s*)$")
NAME = rb'(?:`(?:[^`]|``)+`|"(?:[^"]|"")+"|[\w$\x80-\xff]+)'
GAP = rb"(?:\s|/\*(?:[^*]|\*(?!/))*\*/|(?:--(?=\s)|#)[^\n]*\n)"
CODE = re.compile(
    rb"/\*!\d+ (CREATE(?: OR REPLACE)?)(?:\*/)? (?:/\*!\d+ (DEFINER=.*?)\*/ )?(?:/\*!\d+ )?(?=(?:TRIGGER|EVENT)\b)",
    re.I,
)
AFTER = (b"DELIMITER ;", b"/*!50003 SET ", b"CREATE ")  # what follows code
HEAD = re.compile(
    rb"(TRIGGER\b%(gap)s*(?:IF%(gap)s+NOT%(gap)s+EXISTS\b%(gap)s*)?)(?:%(name)s%(gap)s*\.%(gap)s*)?"
    rb"(%(name)s%(gap)s*\b(?:BEFORE|AFTER)\b(?:\w|%(gap)s)+?\bON\b%(gap)s*)(?:%(name)s%(gap)s*\.%(gap)s*)?"
    rb"(?=%(name)s%(gap)s*\bFOR%(gap)s+EACH%(gap)s+ROW\b)" % {b"name": NAME, b"gap": GAP},
    re.I,
)
OLD = re.compile(rb"-- Host: .*?\bDatabase: (\S.*?)\s*$|USE `((?:[^`]|``)+)`;\s*$")
MODE = re.compile(rb"(/\*!40101 SET .*\bSQL_MODE='NO_AUTO_VALUE_ON_ZERO)(?=')")
VIEW_BEGINS, VIEW_ENDS = b"/*!50001 SET @saved_cs_client ", b"/*!50001 SET collation_connection      = @saved"
CHECK = b"/*!50002 WITH "


def own_names(old, new):
    """What puts the new schema's name for the old one into the definition of a view or a column. An alias in a view may
    be called as the schema is: it counts only where a table, a function or a sequence is named."""
    named = re.compile(
        rb"'(?:[^'\\]|\\.|'')*'|((?:\b(?:from|(?:straight_)?join)\s\(*|\b(?:nextval|lastval|setval)\()?)`%s`\.(?=`(?:[^`]|``)+`(\()?)"
        % re.escape(old),
        re.I,
    )

    def put(found):
        return found[1] + b"`" + new + b"`." if found[1] or found[2] else found[0]

    return lambda line: named.sub(put, line)


def of_code(name, text):
    """A trigger or an event, by itself; a trigger goes to the schema of that name, when one is given."""
    begun = CODE.match(text)
    inner, comment, end = text[begun.end() :].rpartition(b"*/")
    if not comment:
        return text
    if name:
        inner = HEAD.sub(rb"\1\2", inner, count=1) if HEAD.match(inner) else inner
    return b" ".join(filter(None, begun.groups())) + b" " + inner.rstrip() + b"\n" + end.lstrip()


def ends_code(lines, delimiter):
    last = next(line for line in reversed(lines) if line.strip())
    return re.search(rb"\*/ ?" + re.escape(delimiter) + rb"\s*$", last)


def of_view(lines):
    """A view's definition without its CHECK OPTION, and again with it; nothing in the second place when it has none."""
    if not any(line.startswith(CHECK) for line in lines):
        return lines, []
    plain = [line for line in lines if not line.startswith(CHECK)]
    at = next(number for number, line in enumerate(lines) if line.startswith(CHECK))
    plain[at - 1] = plain[at - 1].rstrip() + b";\n"
    return plain, [line.replace(b"50001 CREATE ", b"50001 CREATE OR REPLACE ", 1) for line in lines]


def for_schema(name, lines):
    """The lines to load into the schema of that name (bytes), as the dump says when it is empty; each with its end."""
    delimiter, code, view, checked, use = b";", [], [], [], b""
    owned = None
    for line in lines:
        if code and (line.startswith(AFTER) or CODE.match(line)) and ends_code(code, delimiter):
            yield of_code(name, b"".join(code))
            code = []
        if code:
            code.append(line)
            continue
        if line.startswith(b"DELIMITER "):
            delimiter = line.split()[1]
        elif delimiter != b";":
            if CODE.match(line):
                code.append(line)
                continue
        elif line.startswith((b"LOCK TABLES `", b"UNLOCK TABLES;")):
            continue
        elif line.startswith((b"-- Host: ", b"USE `")):
            old = OLD.match(line)
            owned = own_names(old[1] or old[2], name) if name and old else owned
            use = line if old and old[2] else use
        elif line.startswith(b"/*!40101 SET "):
            line = MODE.sub(rb"\1,ALLOW_INVALID_DATES", line)
        elif owned and line.startswith((b"  `", b"/*!50001 VIEW ")):
            line = owned(line)
        if view or line.startswith(VIEW_BEGINS):
            view.append(line)
            if not line.startswith(VIEW_ENDS):
                continue
            plain, again = of_view(view)
            yield from plain
            checked += [use, *again] if again else []
            view = []
            continue
        default = DEFAULT.match(line)
        if name and default and default[2] == delimiter:  # a procedure's text may hold one, which ends in another way
            line = b"ALTER DATABASE `" + name + b"`" + default[1]
        if checked and line.startswith(b"-- Dump completed"):
            yield from checked
            checked = []
        yield line
    yield from (*code, *view, *checked)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the client says what is wrong
    sys.stdout.buffer.writelines(for_schema(sys.argv[1].encode(), sys.stdin.buffer))
