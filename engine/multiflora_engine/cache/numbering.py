"""Small numbers for what many rows of a table name: owners, adapters. A row keeps four bytes instead of a text."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)


class Numbering(Generic[Name]):
    """A name has a number from 1 on while a row carries it; a number that no row carries is given to another name."""

    def __init__(self) -> None:
        self._numbers: dict[Name, int] = {}
        self._names: list[Name | None] = [None]
        self._counts = [0]
        self._unused: list[int] = []

    def add(self, name: Name, rows: int = 1) -> int:
        """So many more rows carry the name; its number."""
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = self._unused.pop() if self._unused else len(self._names)
            if number == len(self._names):
                self._names.append(None)
                self._counts.append(0)
            self._names[number] = name
        self._counts[number] += rows
        return number

    def remove(self, number: int) -> None:
        """One row carries it no more."""
        self._counts[number] -= 1
        if not self._counts[number]:
            del self._numbers[self.name(number)]
            self._names[number] = None
            self._unused.append(number)

    def number(self, name: Name) -> int:
        """0 if no row carries it."""
        return self._numbers.get(name, 0)

    def name(self, number: int) -> Name:
        name = self._names[number]
        assert name is not None, "no row carries the number"
        return name

    def count(self, number: int) -> int:
        """The rows that carry it."""
        return self._counts[number]
