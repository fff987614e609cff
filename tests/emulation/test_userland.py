import json

from tests.emulation.userland import missing, wanted


def test_only_a_complete_userland_of_these_versions_is_used(tmp_path):
    assert "prepare.py" in missing(tmp_path / "none")
    (tmp_path / "ready.json").write_text("{")
    assert "prepare.py" in missing(tmp_path)
    (tmp_path / "ready.json").write_text(json.dumps({**wanted(), "apache-tvm": "0.26.0"}))
    assert "other versions" in missing(tmp_path)
    (tmp_path / "ready.json").write_text(json.dumps(wanted()))
    assert missing(tmp_path) is None
