"""`multiflora usage`: what it prints of a server with prices, and of one without."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from multiflora_platform.cli.main import main

ROW = {"tenant": "acme", "requests": 2, "prompt_tokens": 9, "device_ms": 1500.0}
MONEY = {"currency": "EUR", "device": 3.0, "cached": 0.25, "stored": 0.5, "saved": 1.75, "computed_again": 0.5}


@pytest.mark.parametrize("row", [ROW, {**ROW, "money": MONEY}])
def test_money_has_columns_where_there_are_prices(
    row: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = httpx.Response(200, json={"items": [row], "next_page_token": None})
    monkeypatch.setattr(httpx, "request", lambda method, url, **options: answer)
    command = ["usage", "--by", "tenant", "--api-key", "k"]
    assert main([*command, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [row]
    assert main(command) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert ("SAVED" in head.split(), "1.75" in line) == ("money" in row, "money" in row)
    assert ("COST EUR" in head, "3.75" in line.split()) == ("money" in row, "money" in row), "what is charged"
