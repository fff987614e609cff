import json

from tvm_qnn.emulation.userland import missing, wanted


def test_only_a_complete_userland_of_these_versions_is_used(tmp_path):
    assert "--prepare-emulation" in missing(tmp_path / "none")
    (tmp_path / "ready.json").write_text("{")
    assert "--prepare-emulation" in missing(tmp_path)
    (tmp_path / "ready.json").write_text(json.dumps({**wanted(), "apache-tvm": "0.26.0"}))
    assert "other versions" in missing(tmp_path)
    (tmp_path / "ready.json").write_text(json.dumps(wanted()))
    assert missing(tmp_path) is None
