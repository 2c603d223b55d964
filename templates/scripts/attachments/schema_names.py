"""A dump of one schema, made ready for a schema of whatever name. Standard library only.

    schema_names.py SCHEMA < DUMP

A trigger that was made by its full name carries that in the dump of mariadb-dump and mysqldump: it would go to the
schema of that name. It is taken out of the trigger's head; what the trigger does stays as it is. Around what was made
while the schema had another default collation they change the schema's default, by its name: that becomes SCHEMA.
"""

import re
import signal
import sys

DEFAULT = re.compile(rb"ALTER DATABASE `(?:[^`]|``)+`( CHARACTER SET \w+ COLLATE \w+ (;+)\s*)$")
NAME = rb'(?:`(?:[^`]|``)+`|"(?:[^"]|"")+"|[\w$\x80-\xff]+)'
GAP = rb"(?:\s|/\*(?:[^*]|\*(?!/))*\*/|(?:--(?=\s)|#)[^\n]*\n)"
BEGIN = rb"/\*!\d+ CREATE(?: OR REPLACE)?(?:\*/)? (?:/\*!\d+ DEFINER=.*?\*/ )?(?:/\*!\d+ )?TRIGGER\b"
TRIGGER = re.compile(BEGIN, re.I)
HEAD = re.compile(
    rb"(%(begin)s%(gap)s*(?:IF%(gap)s+NOT%(gap)s+EXISTS\b%(gap)s*)?)(?:%(name)s%(gap)s*\.%(gap)s*)?"
    rb"(%(name)s%(gap)s*\b(?:BEFORE|AFTER)\b(?:\w|%(gap)s)+?\bON\b%(gap)s*)(?:%(name)s%(gap)s*\.%(gap)s*)?"
    rb"(?=%(name)s%(gap)s*\bFOR%(gap)s+EACH%(gap)s+ROW\b)" % {b"begin": BEGIN, b"name": NAME, b"gap": GAP},
    re.I,
)


def for_schema(name, lines):
    """The lines to load into the schema of that name (bytes), each with its end."""
    delimiter, head = b";", b""
    for line in lines:
        if line.startswith(b"DELIMITER "):
            delimiter = line.split()[1]
        default = DEFAULT.match(line)
        if default and default[2] == delimiter:  # a procedure's text may hold such a line, which ends in another way
            line = b"ALTER DATABASE `" + name + b"`" + default[1]
        if head or TRIGGER.match(line):
            head += line
            named = HEAD.match(head)
            if not named and not line.rstrip().endswith(delimiter):
                continue
            line, head = named[1] + named[2] + head[named.end() :] if named else head, b""
        yield line
    if head:
        yield head


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the client says what is wrong
    sys.stdout.buffer.writelines(for_schema(sys.argv[1].encode(), sys.stdin.buffer))
