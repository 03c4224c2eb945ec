"""Owns the `sql` task: a question about a shop's tables becomes one SELECT statement."""

from __future__ import annotations

from random import Random

import names

TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # table: (text columns, number columns)
    "customers": (("name", "email", "city"), ("age", "balance")),
    "employees": (("name", "role", "city"), ("age", "salary")),
    "products": (("name", "colour"), ("price", "stock", "weight")),
    "orders": (("item", "city"), ("price", "quantity")),
    "offices": (("city", "street"), ("rent", "seats")),
}
VALUES = {"city": names.CITIES, "role": names.ROLES, "colour": names.COLOURS, "item": names.ITEMS}


def make(rng: Random) -> tuple[str, str]:
    """One question and its SQL."""
    table = rng.choice(list(TABLES))
    text, numbers = TABLES[table]
    condition_text, condition_sql = _condition(rng, text, numbers)
    shape = rng.random()
    if shape < 0.2:
        verb = rng.choice(("How many {t} are there{c}?", "Count all {t}{c}."))
        return verb.format(t=table, c=condition_text), f"SELECT COUNT(*) FROM {table}{condition_sql};"
    if shape < 0.4:
        column = rng.choice(numbers)
        word, function = rng.choice((("average", "AVG"), ("highest", "MAX"), ("lowest", "MIN"), ("total", "SUM")))
        question = f"What is the {word} {column} of all {table}{condition_text}?"
        return question, f"SELECT {function}({column}) FROM {table}{condition_sql};"
    return _listing(rng, table, (*text, *numbers), numbers, condition_text, condition_sql)


def _condition(rng: Random, text: tuple[str, ...], numbers: tuple[str, ...]) -> tuple[str, str]:
    spoken, written = [], []
    filters = [column for column in text if column in VALUES]
    if filters and rng.random() < 0.4:
        column = rng.choice(filters)
        value = rng.choice(VALUES[column])
        spoken.append(f"the {column} {value}")
        written.append(f"{column} = '{value}'")
    if rng.random() < 0.5:
        column, number = rng.choice(numbers), rng.randint(2, 99)
        word, sign = rng.choice((("above", ">"), ("below", "<"), ("of exactly", "=")))
        article = "an" if column[0] in "aeiou" else "a"
        spoken.append(f"{article} {column} {word} {number}")
        written.append(f"{column} {sign} {number}")
    if not spoken:
        return "", ""
    return " with " + " and ".join(spoken), " WHERE " + " AND ".join(written)


def _listing(
    rng: Random, table: str, columns: tuple[str, ...], numbers: tuple[str, ...], spoken: str, condition: str
) -> tuple[str, str]:
    chosen = rng.sample(columns, rng.randint(1, 2))
    verb = rng.choice(("Show", "List", "Give me"))
    order_text, order = "", ""
    if rng.random() < 0.4:
        column = rng.choice(numbers)
        word, direction = rng.choice((("highest", " DESC"), ("lowest", "")))
        order_text, order = f", {word} {column} first", f" ORDER BY {column}{direction}"
    if rng.random() < 0.2:
        return f"{verb} all {table}{spoken}{order_text}.", f"SELECT * FROM {table}{condition}{order};"
    question = f"{verb} the {' and '.join(chosen)} of all {table}{spoken}{order_text}."
    return question, f"SELECT {', '.join(chosen)} FROM {table}{condition}{order};"
