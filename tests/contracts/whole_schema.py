"""A schema with all that is easily lost on the way through a dump, as the statements that make it."""

# ruff: noqa: E501

from __future__ import annotations

OURS, NEW = "the-shop_1", "new-1"

BYTES = bytes(range(256)) + b"\\'\"`\x1a\x00\r\n;;*/ -- #"
NAMES = ("a b", "a.b", "a`b", "a-b", "größe", "#x", "select", "it's", 'a"b', "a\\b", "a;;b", "50%")


def q(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


LATIN = "0x" + bytes(range(0x20, 0x100)).hex()

BEFORE = (
    "CREATE DATABASE other",
    "CREATE TABLE other.far (id INT PRIMARY KEY)",
    "INSERT INTO other.far VALUES (1)",
    "CREATE USER IF NOT EXISTS other@'%', app@'%'",
    "GRANT ALL ON *.* TO other@'%'",
    "CREATE DATABASE {schema} CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
    "USE {schema}",
)
COMMON = (
    # names
    *(
        f"CREATE TABLE {q(n)} ({q('id ' + n)} INT PRIMARY KEY, {q(n)} VARCHAR(20) COMMENT 'of {i}', KEY {q(n)} ({q(n)}))"
        for i, n in enumerate(NAMES)
    ),
    *(f"INSERT INTO {q(n)} VALUES (1, '{i}')" for i, n in enumerate(NAMES)),
    # every byte
    "CREATE TABLE bytes (id INT PRIMARY KEY, b BINARY(30), vb VARBINARY(400), bl BLOB, lb LONGBLOB, t BIT(1), t64 BIT(64),"
    " l VARCHAR(300) CHARACTER SET latin1, u TEXT CHARACTER SET utf8mb4, m MEDIUMTEXT CHARACTER SET utf8mb3, ub TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,"
    " u16 TEXT CHARACTER SET utf16, cp VARCHAR(300) CHARACTER SET cp1251)",
    f"INSERT INTO bytes VALUES (1, LEFT(0x{BYTES.hex()}, 30), 0x{BYTES.hex()}, 0x{BYTES.hex()}, 0x{BYTES.hex()}, b'1', 0xFFFFFFFFFFFFFF01, {LATIN},"
    f" CONVERT(0x{('🙂ß' + chr(10) + chr(13) + chr(26) + chr(0) + chr(92) + chr(39) + chr(34)).encode().hex()} USING utf8mb4), 'ß€', 'a\\Zb\\0c', '🙂', 'Яж')",
    "INSERT INTO bytes VALUES (2, '', '', '', '', b'0', 0, '', '', '', '', '', ''), (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    # numbers and times
    "CREATE TABLE singles (id INT PRIMARY KEY, f FLOAT)",
    "INSERT INTO singles VALUES (1, 0.1), (2, 123456), (3, -1.17549e-38)",
    "CREATE TABLE numbers (id INT PRIMARY KEY, d DECIMAL(65,30), f FLOAT(20,3), db DOUBLE, u BIGINT UNSIGNED, z INT(5) ZEROFILL, y YEAR)",
    "INSERT INTO numbers VALUES (1, '99999999999999999999999999999999999.999999999999999999999999999999', 99999997952, 1.7976931348623157e308, 18446744073709551615, 7, 1901),"
    " (2, '-0.000000000000000000000000000001', 16777217, 5e-324, 0, 0, 0), (3, 0, 1234567.875, 0.1, 1, 1, 2155), (4, 0, -1.5, -2.2250738585072014e-308, 1, 1, 2000), (5, 0, 0.1, 1e0/3e0, 1, 1, 2000)",
    "SET sql_mode = 'ALLOW_INVALID_DATES'",
    "CREATE TABLE times (id INT PRIMARY KEY, d DATE DEFAULT '0000-00-00', dt DATETIME(6), t TIME(3), ts TIMESTAMP(6) NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6))",
    "CREATE TABLE invalid_dates (id INT PRIMARY KEY, d DATE DEFAULT '2024-02-30', dt DATETIME)",
    "INSERT INTO times VALUES (1, '0000-00-00', '0000-00-00 00:00:00', '-838:59:59', '2024-03-31 01:59:59.999999'), (2, '2024-00-00', '2024-01-00', '838:59:59', '1970-01-02'), (3, '9999-12-31', '9999-12-31 23:59:59.999999', '-00:00:00.001', '2038-01-19 03:14:07')",
    "SET time_zone = '+00:00'",
    "INSERT INTO times (id, ts) VALUES (4, '2024-10-27 00:30:00'), (5, '2024-10-27 01:30:00'), (6, '2024-03-31 01:00:00')",
    "SET time_zone = SYSTEM",
    "INSERT INTO invalid_dates VALUES (1, '2024-02-30', '2023-02-31 10:00:00'), (2, '0000-00-00', '0000-00-00'), (3, DEFAULT, NULL)",
    # auto_increment
    "SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO'",
    "CREATE TABLE zero (id INT AUTO_INCREMENT PRIMARY KEY, t TEXT) COMMENT = 'it''s; \"0\" -- \\\\ */ \\n COLLATE nonsense ENGINE=MyISAM'",
    "INSERT INTO zero VALUES (0, 'zero'), (5, NULL), (-3, 'x')",
    "CREATE TABLE five_hundred (id BIGINT AUTO_INCREMENT PRIMARY KEY, c INT COMMENT 'COLLATE klingon_ci; DEFINER=`x`@`y`') AUTO_INCREMENT = 500",
    "CREATE TABLE nothing (c INT)",
    "SET sql_mode = DEFAULT",
    # rows
    "CREATE TABLE big (id INT PRIMARY KEY, b LONGBLOB, t LONGTEXT)",
    "INSERT INTO big VALUES (1, REPEAT(0x001A275C22FF0A0D, 2621440), REPEAT('it''s \\\\ \\n', 100000))",
    # keys
    "CREATE TABLE z_parent (id INT PRIMARY KEY, next INT, child INT, KEY (next), KEY(child), CONSTRAINT self FOREIGN KEY (next) REFERENCES z_parent (id) ON DELETE CASCADE ON UPDATE CASCADE)",
    "CREATE TABLE a_child (id INT PRIMARY KEY, parent INT, far INT, CONSTRAINT circle FOREIGN KEY (parent) REFERENCES z_parent (id), CONSTRAINT `far away` FOREIGN KEY (far) REFERENCES other.far (id))",
    "ALTER TABLE z_parent ADD CONSTRAINT back FOREIGN KEY (child) REFERENCES a_child (id) ON DELETE SET NULL",
    "SET foreign_key_checks = 0",
    "INSERT INTO z_parent VALUES (1, 2, 1), (2, 1, NULL)",
    "INSERT INTO a_child VALUES (1, 2, 1)",
    "SET foreign_key_checks = 1",
    # columns
    "CREATE TABLE columns_ (id INT PRIMARY KEY, e ENUM('a''b', 'c\"d', 'e\\\\f', 'g,h', '', '€') DEFAULT 'a''b', s SET('x', 'y''z'), j JSON, CHECK (JSON_VALID(j)),"
    " g1 INT GENERATED ALWAYS AS (id * 2) STORED, g2 VARCHAR(100) GENERATED ALWAYS AS (CONCAT(e, '; it''s \\\\')) VIRTUAL, de VARCHAR(100) DEFAULT (CONCAT('a', 'b;\\'', UPPER('x'))),"
    " n VARCHAR(20) DEFAULT 'null', hidden INT INVISIBLE DEFAULT 7, c2 INT CHECK (c2 <> 13), CONSTRAINT `a check` CHECK (id < 1000 OR n <> 'it''s'), KEY (g2), UNIQUE KEY (g1))",
    "INSERT INTO columns_ (id, e, s, j, c2) VALUES (1, 'a''b', 'x,y''z', '{\"a\": \"\\\\\"; 🙂\\\\n\", \"b\": [1.50, null]}', 1), (2, '', '', 'null', NULL), (3, NULL, NULL, NULL, 3)",
    "SET sql_mode = ''",
    "INSERT INTO columns_ (id, e, hidden, c2) VALUES (4, 'c\"d', 99, 4)",
    "SET sql_mode = DEFAULT",
    # indexes and layouts
    "CREATE TABLE words (id INT PRIMARY KEY, t TEXT, p POINT NOT NULL, g GEOMETRY, FULLTEXT KEY `full text` (t), SPATIAL KEY (p))",
    "INSERT INTO words VALUES (1, 'it''s a word', ST_GeomFromText('POINT(1 2)'), ST_GeomFromText('POLYGON((0 0,1 0,1 1,0 0))', 0)), (2, NULL, ST_GeomFromText('POINT(-1e300 0.1)'), ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,1 1))'))",
    "CREATE TABLE parts (id INT, d DATE, PRIMARY KEY (id, d)) PARTITION BY RANGE (YEAR(d)) SUBPARTITION BY HASH (id) SUBPARTITIONS 2 (PARTITION `p 1` VALUES LESS THAN (2000) COMMENT = 'it''s; old', PARTITION p2 VALUES LESS THAN MAXVALUE)",
    "INSERT INTO parts VALUES (1, '1999-01-01'), (2, '2024-01-01')",
    "CREATE TABLE list_parts (s VARCHAR(10), n INT) PARTITION BY LIST COLUMNS (s) (PARTITION a VALUES IN ('a''b', 'c;;'), PARTITION b VALUES IN (NULL))",
    "INSERT INTO list_parts VALUES ('c;;', 1), (NULL, 2)",
    "CREATE TABLE packed (id INT PRIMARY KEY, t VARCHAR(50)) ROW_FORMAT = COMPRESSED KEY_BLOCK_SIZE = 8 DEFAULT CHARSET = latin1 COLLATE latin1_german2_ci",
    "CREATE TABLE dynamic (id INT PRIMARY KEY, t VARCHAR(50), l VARCHAR(10) CHARACTER SET latin1 COLLATE latin1_bin) ROW_FORMAT = REDUNDANT STATS_PERSISTENT = 0 DEFAULT CHARSET = utf8mb4 COLLATE utf8mb4_swedish_ci",
    "CREATE TABLE isam (id INT AUTO_INCREMENT PRIMARY KEY, t TEXT, FULLTEXT KEY (t)) ENGINE = MyISAM",
    "INSERT INTO isam (t) VALUES ('a')",
    # code
    "CREATE FUNCTION half(n INT) RETURNS INT DETERMINISTIC NO SQL COMMENT 'it''s; -- \"half\"' RETURN n / 2",
    "CREATE VIEW z_view AS SELECT id, t FROM zero",
    "CREATE DEFINER = `other`@`%` SQL SECURITY INVOKER VIEW m_view AS SELECT id AS `a b`, 'it''s; \\\\ \" -- */' AS `c``d` FROM z_view WITH CASCADED CHECK OPTION",
    "CREATE ALGORITHM = MERGE DEFINER = `other`@`%` SQL SECURITY DEFINER VIEW a_view AS SELECT `a b`, `c``d` FROM m_view",
    "CREATE ALGORITHM = TEMPTABLE VIEW f_view AS SELECT half(id) AS h FROM a_child",
    "CREATE VIEW mixed_view AS SELECT c.id FROM a_child c JOIN other.far f ON f.id = c.far",
    "CREATE VIEW union_view AS WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT n FROM r UNION SELECT id FROM zero ORDER BY 1",
    "CREATE PROCEDURE loops(IN `a b` INT, OUT `o` INT, INOUT io VARCHAR(10)) MODIFIES SQL DATA SQL SECURITY INVOKER COMMENT 'loops'\n"
    '/* outer ;; */ BEGIN\n  -- it\'s a "comment" ;;\n  # and `one` more ;;\n  DECLARE i INT DEFAULT 0;\n  DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN /* not; */ END;\n'
    "  again: LOOP /* why;; */\n    SET i = i + 1; /* ;; */ IF i > 3 THEN LEAVE again; END IF;\n  END LOOP again;\n"
    "  SET io = 'a;;b'; SET o = LENGTH(';;\\\\\\'*/ -- \"');\n  /*! SET o = o + 1 */;\n  SELECT 'DELIMITER // \nDELIMITER //\nUSE `x`;\nCREATE DEFINER=`keep`@`me` VIEW `y` AS SELECT 1;\n';\nEND",
    "CREATE PROCEDURE crlf()\r\nBEGIN\r\n  SELECT 'a\r\nb';\r\n\tSELECT 1;\r\nEND",
    "CREATE PROCEDURE ends() BEGIN END -- the end",
    "CREATE PROCEDURE ends2() SELECT 1 /* the end */",
    "CREATE PROCEDURE text_of() BEGIN\nSET @a = 'x\nCREATE DEFINER=`keep`@`me` TRIGGER `t` ...\nCREATE TABLE `made` (\nINSERT INTO x VALUES\nGRANT all;\nUSE `no`;\n-- Dump completed\nCOLLATE nonsense';\nEND",
    "SET sql_mode = 'ANSI_QUOTES'",
    'CREATE PROCEDURE "ansi quotes"() BEGIN SELECT "id" AS "a;b", \'"\' FROM "zero"; END',
    'CREATE VIEW "ansi view" AS SELECT "id" AS "i""d", \'x"\' AS x FROM "zero"',
    'CREATE TRIGGER "ansi trigger" BEFORE INSERT ON "zero" FOR EACH ROW SET NEW."t" = \'it"s\'',
    "SET sql_mode = 'NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT'",
    "CREATE PROCEDURE no_escapes() BEGIN SELECT 'a\\', 'b;;' || '\\'; END",
    "CREATE FUNCTION no_escapes_f() RETURNS TEXT DETERMINISTIC RETURN 'a\\' || '\\\\'",
    "CREATE TRIGGER no_escapes_t BEFORE INSERT ON zero FOR EACH ROW FOLLOWS `ansi trigger` SET @x = 'a\\;;'",
    "SET sql_mode = DEFAULT",
    "CREATE TRIGGER `before them` BEFORE INSERT ON zero FOR EACH ROW PRECEDES `ansi trigger` BEGIN /* why */ SET @y = '*/ ;; /*'; -- it's\n # too\n IF NEW.id = 0 THEN SET @z = 1; END IF; END",
    "CREATE TRIGGER `in shop` AFTER DELETE ON {schema}.zero FOR EACH ROW SET @d = 1 -- bye",
    "CREATE TRIGGER {schema}.`t two` AFTER UPDATE ON {schema}.`a.b` FOR EACH ROW BEGIN\r\n  SET @d = 'a\r\nb';\r\nEND",
    "CREATE EVENT ev ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 02:30:00' ON COMPLETION PRESERVE DISABLE COMMENT 'it''s; an \"event\"' DO BEGIN /* why; */ DELETE FROM nothing WHERE c = 1; -- it's\n END",
    "SET time_zone = '+05:30'",
    "CREATE EVENT `at once` ON SCHEDULE AT '2035-01-01 00:00:00' ENABLE DO SET @a = '; it''s' -- bye",
    "SET time_zone = SYSTEM",
    "SET NAMES latin1",
    "CREATE PROCEDURE latin() SELECT 'größe', \"€\"",
    "CREATE VIEW latin_view AS SELECT 'größe' AS `größe`",
    "SET NAMES utf8mb4",
    "ALTER DATABASE {schema} CHARACTER SET latin1 COLLATE latin1_german1_ci",
    "CREATE PROCEDURE old_default(a TEXT) SELECT a",
    "CREATE TABLE latin_default (id INT PRIMARY KEY, t TEXT)",
    "INSERT INTO latin_default VALUES (1, 'ä€')",
)

MARIADB = (
    "CREATE SEQUENCE `a seq` START WITH 10 INCREMENT BY 5 MAXVALUE 1000 CACHE 10 CYCLE",
    "SELECT NEXTVAL(`a seq`)",
    "CREATE SEQUENCE z_seq",
    "SELECT SETVAL(z_seq, 77)",
    "CREATE TABLE a_sequenced (id INT PRIMARY KEY DEFAULT NEXTVAL(`z_seq`), t TEXT)",
    "INSERT INTO a_sequenced (t) VALUES ('x')",
    "CREATE TABLE versioned (id INT PRIMARY KEY, t TEXT, w INT WITHOUT SYSTEM VERSIONING) WITH SYSTEM VERSIONING PARTITION BY SYSTEM_TIME LIMIT 1000 (PARTITION p0 HISTORY, PARTITION pn CURRENT)",
    "INSERT INTO versioned VALUES (1, 'a', 1)",
    "UPDATE versioned SET t = 'b'",
    "DELETE FROM versioned",
    "INSERT INTO versioned VALUES (2, 'c', 1)",
    "CREATE TABLE versioned2 (id INT PRIMARY KEY, t TEXT, s TIMESTAMP(6) GENERATED ALWAYS AS ROW START INVISIBLE, e TIMESTAMP(6) GENERATED ALWAYS AS ROW END INVISIBLE, PERIOD FOR SYSTEM_TIME(s, e)) WITH SYSTEM VERSIONING",
    "INSERT INTO versioned2 (id, t) VALUES (1, 'a')",
    "UPDATE versioned2 SET t = 'b'",
    "CREATE TABLE period (id INT, f DATE, t DATE, PERIOD FOR p(f, t), UNIQUE (id, p WITHOUT OVERLAPS))",
    "INSERT INTO period VALUES (1, '2024-01-01', '2024-02-01')",
    "CREATE TABLE ids (u UUID PRIMARY KEY DEFAULT UUID(), i6 INET6, i4 INET4, c VARCHAR(100) COMPRESSED, bc BLOB COMPRESSED, KEY (i6) IGNORED)",
    "INSERT INTO ids VALUES ('123e4567-e89b-12d3-a456-426655440000', '2001:db8::ff00:42:8329', '192.168.0.1', REPEAT('a', 100), REPEAT(0x001A27, 30))",
    "CREATE TABLE aria (id INT PRIMARY KEY) ENGINE = Aria TRANSACTIONAL = 1",
    "CREATE TABLE paged (id INT PRIMARY KEY) ENGINE = InnoDB PAGE_COMPRESSED = 1",
    "CREATE ROLE IF NOT EXISTS boss",
    "CREATE DEFINER = boss VIEW role_view AS SELECT 1 AS one",
    "CREATE DEFINER = boss PROCEDURE role_proc() SELECT 1",
    "CREATE AGGREGATE FUNCTION agg(x INT) RETURNS INT DETERMINISTIC BEGIN DECLARE s INT DEFAULT 0; DECLARE CONTINUE HANDLER FOR NOT FOUND RETURN s; LOOP FETCH GROUP NEXT ROW; SET s = s + x; END LOOP; END",
    "SET sql_mode = 'ORACLE'",
    'CREATE PACKAGE "my pack" AS /* spec;; */\n  PROCEDURE p1(a INT); -- it\'s\n  FUNCTION f1 RETURN INT;\nEND',
    "CREATE PACKAGE BODY \"my pack\" AS\n  x INT := 1; /* ;; */\n  PROCEDURE p1(a INT) AS BEGIN SELECT a, ';;'; END;\n  FUNCTION f1 RETURN INT AS BEGIN RETURN x; END;\nBEGIN\n  x := 2;\nEND",
    "CREATE PROCEDURE oracle_p(a IN VARCHAR2, b OUT NUMBER) AS c INT := 1;\nBEGIN\n  <<lab>>\n  WHILE c < 3 LOOP c := c + 1; END LOOP lab;\n  b := c;\nEND",
    "CREATE TRIGGER oracle_t BEFORE UPDATE ON \"zero\" FOR EACH ROW BEGIN :NEW.t := 'x' || ';;'; END",
    "CREATE VIEW oracle_v AS SELECT 'a' || 'b' AS x, NVL(NULL, 1) AS y FROM dual",
    "SET sql_mode = DEFAULT",
    "CREATE TABLE seq_gen (id INT PRIMARY KEY, v INT AS (id + 1) PERSISTENT INVISIBLE, w INT INVISIBLE DEFAULT (1 + 1))",
    "INSERT INTO seq_gen (id, w) VALUES (1, 5)",
)
MYSQL = (
    "SET sql_generate_invisible_primary_key = ON",
    "CREATE TABLE no_key (t TEXT)",
    "INSERT INTO no_key VALUES ('a'), ('b')",
    "DELETE FROM no_key WHERE t = 'a'",
    "INSERT INTO no_key VALUES ('c')",
    "SET sql_generate_invisible_primary_key = OFF",
    "CREATE TABLE functional (id INT PRIMARY KEY, j JSON, n VARCHAR(20), KEY f ((LOWER(n))), KEY mv ((CAST(j->'$.a' AS UNSIGNED ARRAY))), KEY inv (n) INVISIBLE, KEY d (n DESC))",
    "INSERT INTO functional VALUES (1, '{\"a\": [1, 2]}', 'X')",
    "CREATE TABLE spots (id INT PRIMARY KEY, p POINT NOT NULL SRID 4326, SPATIAL KEY (p))",
    "INSERT INTO spots VALUES (1, ST_GeomFromText('POINT(52.5 13.4)', 4326))",
    "CREATE TABLE vectors (id INT PRIMARY KEY, v VECTOR(3))",
    "INSERT INTO vectors VALUES (1, STRING_TO_VECTOR('[1,2.5,-3]'))",
    "CREATE TABLE unenforced (id INT PRIMARY KEY, CONSTRAINT never CHECK (id > 100) NOT ENFORCED)",
    "INSERT INTO unenforced VALUES (1)",
    "CREATE TABLE packed2 (id INT PRIMARY KEY) COMPRESSION = 'zlib'",
    "CREATE TABLE col_def (id BINARY(16) PRIMARY KEY DEFAULT (UUID_TO_BIN('123e4567-e89b-12d3-a456-426655440000')), j JSON DEFAULT (JSON_OBJECT('a', 'it''s')))",
    "INSERT INTO col_def () VALUES ()",
)


def statements(mysql: bool) -> list[str]:
    return [each.replace("{schema}", q(OURS)) for each in (*BEFORE, *COMMON, *(MYSQL if mysql else MARIADB))]
