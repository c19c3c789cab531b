"""Three-valued logic as SQL has it: random queries over small tables full of NULLs give the rows
that SQLite gives. What SQLite has no word for (ANY, ALL) is asked of it in other words.

`python tests/python/test_logic.py URL SECONDS [SEED]` goes on for longer, against a server.
"""

import random
import sqlite3
import sys
import time
import urllib.request

SECONDS = 20
TABLES = {"a": ["x", "y", "g"], "b": ["x", "y", "g"], "c": ["x", "y", "g"]}


def rows_of(chance):
    """Rows with many NULLs and few values, so that everything meets something."""
    value = lambda: chance.choice([None, None, 0, 1, 2, 3])  # noqa: E731
    return {
        table: [(n, value(), value(), value()) for n in range(chance.choice([0, 1, 4, 6]))]
        for table in TABLES
    }


class Query:
    """One random query, as we say it and as SQLite says it."""

    def __init__(self, chance):
        self.chance = chance
        self.names = 0

    def pick(self, *choices):
        return self.chance.choice(choices)

    def column(self, scope):
        alias = self.chance.choice(scope)
        return f"{alias}.{self.pick('x', 'y', 'g')}"

    def value(self, scope):
        return self.pick(self.column(scope), self.column(scope), str(self.pick(0, 1, 2)))

    def table(self):
        self.names += 1
        return self.pick(*TABLES), f"t{self.names}"

    def subquery(self, scope):
        """A list, of one column, that may look outside."""
        table, alias = self.table()
        column = f"{alias}.{self.pick('x', 'y')}"
        where = self.pick(
            "",
            "",
            f" WHERE {alias}.g = {self.column(scope)}",
            f" WHERE {alias}.g = {self.column(scope)} AND {alias}.y IS NOT NULL",
            f" WHERE {alias}.x IS NOT NULL",
            f" WHERE {alias}.g = 1",
        )
        return table, alias, column, where

    def atom(self, scope):
        """A condition: (ours, theirs)."""
        kind = self.chance.randrange(9)
        if kind == 0:
            text = f"{self.column(scope)} {self.pick('=', '<>', '<', '>=')} {self.value(scope)}"
            return text, text
        if kind == 1:
            text = f"{self.column(scope)} IS {self.pick('', 'NOT ')}NULL"
            return text, text
        if kind == 2:
            items = ", ".join(str(self.pick(0, 1, 2, "NULL")) for _ in range(3))
            text = f"{self.column(scope)} {self.pick('', 'NOT ')}IN ({items})"
            return text, text
        if kind == 3:
            text = f"{self.column(scope)} BETWEEN {self.value(scope)} AND {self.value(scope)}"
            return text, text
        table, alias, column, where = self.subquery(scope)
        x = self.column(scope)
        if kind in (4, 5):
            text = f"{x} {self.pick('', 'NOT ')}IN (SELECT {column} FROM {table} AS {alias}{where})"
            return text, text
        if kind == 6:
            words = self.pick("", "NOT ")
            text = f"{words}EXISTS (SELECT 1 FROM {table} AS {alias}{where})"
            return text, text
        query = f"(SELECT {column} FROM {table} AS {alias}{where})"
        if kind == 7:
            return f"{x} = ANY {query}", f"{x} IN {query}"
        return f"{x} <> ALL {query}", f"{x} NOT IN {query}"

    def condition(self, scope, depth):
        if depth == 0:
            return self.atom(scope)
        kind = self.chance.randrange(6)
        if kind < 2:
            return self.atom(scope)
        left, right = self.condition(scope, depth - 1), self.condition(scope, depth - 1)
        if kind == 2:
            return tuple(f"NOT ({one})" for one in left)
        word = "AND" if kind == 3 else "OR"
        return tuple(f"({one} {word} {two})" for one, two in zip(left, right, strict=True))

    def select(self):
        table, alias = self.table()
        scope, tables = [alias], f"{table} AS {alias}"
        if self.chance.random() < 0.4:
            other, name = self.table()
            scope.append(name)
            word = self.pick("JOIN", "LEFT JOIN", "FULL JOIN")
            left = f"{alias}.{self.pick('x', 'g')}"
            on = f"{left} = {name}.{self.pick('x', 'g')}"
            if word == "JOIN":
                on = self.pick(on, f"{on} OR {alias}.y IS NULL", f"{alias}.x <> {name}.x")
            tables = f"{tables} {word} {other} AS {name} ON {on}"
        where = self.condition(scope, 2)
        shown = ", ".join(f"{one}.id AS id{n}" for n, one in enumerate(scope))
        if self.chance.random() < 0.3:
            # A condition as a value: NULL and FALSE differ to the eye.
            value = self.condition(scope, 1)
            shown = tuple(f"{shown}, ({one}) AS v" for one in value)
        else:
            shown = (shown, shown)
        return tuple(
            f"SELECT {one} FROM {tables} WHERE {condition}"
            for one, condition in zip(shown, where, strict=True)
        )

    def whole(self):
        first = self.select()
        if self.chance.random() < 0.2:
            word = self.pick("UNION", "UNION ALL", "EXCEPT", "INTERSECT")
            left, right = (f"SELECT {self.pick('x', 'y')} AS v FROM {self.pick(*TABLES)}" for _ in "ab")
            both = f"{left} {word} {right}"
            return both, both
        return first


def plain(rows):
    """Rows that can be compared: truth as numbers, in one order."""
    number = {True: 1, False: 0}
    cells = [tuple(None if cell is None else int(number.get(cell, cell)) for cell in row) for row in rows]
    return sorted(cells, key=lambda row: tuple((cell is None, cell or 0) for cell in row))


def compare(ask, change, seconds, seed):
    """Compares for so long. Returns how many queries were equal, and how many were refused."""
    chance = random.Random(seed)
    ends = time.monotonic() + seconds
    equal, refused = 0, []
    round_ = 0
    while time.monotonic() < ends:
        round_ += 1
        theirs = sqlite3.connect(":memory:")
        for table, rows in rows_of(chance).items():
            theirs.execute(f"CREATE TABLE {table} (id INT, x INT, y INT, g INT)")
            theirs.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", rows)
            change(f"DROP TABLE IF EXISTS {table}")
            change(f"CREATE TABLE {table} (id BIGINT PRIMARY KEY, x BIGINT, y BIGINT, g BIGINT)")
            if rows:
                values = ", ".join(str(row).replace("None", "NULL") for row in rows)
                change(f"INSERT INTO {table} VALUES {values}")
        for _ in range(60):
            ours, words = Query(chance).whole()
            right = plain(theirs.execute(words).fetchall())
            try:
                found = ask(ours)
            except Refused as error:
                refused.append(f"{ours}\n  {error}")
                continue
            assert plain(found) == right, (
                f"seed {seed}, round {round_}\n{ours}\nours   {plain(found)}\nright  {right}\n"
                + "\n".join(theirs.iterdump())
            )
            equal += 1
    return equal, refused


class Refused(Exception):
    """An error in the place of rows: no wrong answer."""


def compare_at(server, seconds, seed):
    def ask(sql):
        answer = server.sql(sql)
        if answer.status != 200:
            raise Refused(answer.body.decode()[:300])
        return [tuple(row.values()) for row in answer.json()]

    def change(sql):
        answer = server.sql(sql)
        assert answer.status == 200, answer.body.decode()

    return compare(ask, change, seconds, seed)


def test_random_conditions_take_the_rows_that_sqlite_takes(server):
    seed = time.time_ns() % 1_000_000
    equal, refused = compare_at(server, SECONDS, seed)
    print(f"seed {seed}: {equal} equal, {len(refused)} refused")
    for text in refused[:5]:
        print(text)
    assert equal > 50
    assert len(refused) < equal / 10, "\n".join(refused[:20])


class Remote:
    """A server by its address, for the command line."""

    def __init__(self, url):
        self.url = url

    def sql(self, sql):
        request = urllib.request.Request(
            f"{self.url}/v1/sql", sql.encode(), {"Content-Type": "text/plain"}
        )
        from conftest import Answer

        try:
            with urllib.request.urlopen(request) as response:
                return Answer(response)
        except urllib.error.HTTPError as error:
            return Answer(error)


if __name__ == "__main__":
    SEED = int(sys.argv[3]) if len(sys.argv) > 3 else time.time_ns() % 1_000_000
    EQUAL, REFUSED = compare_at(Remote(sys.argv[1]), float(sys.argv[2]), SEED)
    print(f"seed {SEED}: {EQUAL} equal, {len(REFUSED)} refused")
    for TEXT in REFUSED[:10]:
        print(TEXT)
