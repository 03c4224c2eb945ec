"""The benchmark runs every op once and reports what it says it does."""

from __future__ import annotations

from multiflora_kernels import benchmark
from multiflora_kernels.linear.quantised import IntegerForm


def test_one_row_per_measurement(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "_microseconds", lambda call: (call(0), 2.0)[1])
    monkeypatch.setattr(
        benchmark,
        "_measurements",
        lambda: [
            benchmark._attention(2, 20, 1),
            benchmark._lora(2, 1),
            benchmark._quantised_linear(IntegerForm(4, 32), 3, 64, 8),
            *benchmark._rows(3),
        ],
    )
    rows = benchmark.run()
    assert [row["op"] for row in rows[:3]] == ["paged_attention", "lora_linear_ qkv", "linear, 4 bits"]
    assert all(set(row) == {"op", "shape", "native_us", "torch_us", "ratio"} and row["ratio"] == 1.0 for row in rows)
    benchmark.main()
    assert len(capsys.readouterr().out.splitlines()) == len(rows) + 2


def test_the_median_is_in_microseconds(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock) * 1e-3)
    assert round(benchmark._microseconds(lambda i: None)) == 1000
