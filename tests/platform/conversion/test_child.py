"""A conversion in another process: its environment, and what is said when it fails or dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from multiflora_platform.conversion.child import ConversionError, run_child

ENDS = {
    "raise ConversionError('it is odd')": "it is odd",
    "raise MemoryError": "more memory than",
    "raise ValueError('never seen')": "ValueError: never seen",
    "os.kill(os.getpid(), signal.SIGSEGV)": "was ended by SIGSEGV",
    "os.kill(os.getpid(), signal.SIGXCPU)": "more processor time",
    "os._exit(4)": "ended with 4",
    "time.sleep(60)": "it takes more than 2 s",
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the name `asked`, where children find it."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "asked.py"


@pytest.mark.parametrize("end", ENDS)
def test_each_end_has_its_words(end: str, module: Path) -> None:
    head = "import os, signal, time\nfrom multiflora_platform.conversion.child import ConversionError, answer\n"
    module.write_text(f"{head}def work(): {end}\nanswer(work)\n", encoding="utf-8")
    with pytest.raises(ConversionError) as caught:
        run_child("asked", seconds=2 if "sleep" in end else 60)
    assert ENDS[end] in str(caught.value)
    assert len(str(caught.value)) < 400


def test_no_secret_reaches_it(module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush-hush")
    monkeypatch.setenv("MULTIFLORA_API_KEY", "hush-hush")
    module.write_text("import os, sys\nopen(sys.argv[1], 'w').write(repr(dict(os.environ)))\n", encoding="utf-8")
    run_child("asked", str(tmp_path / "told"), seconds=60)
    told = (tmp_path / "told").read_text(encoding="utf-8")
    assert "hush-hush" not in told
    assert "'HF_HUB_OFFLINE': '1'" in told
