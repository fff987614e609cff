"""The committed figures of memory networks keep what is promised, and the report shows them."""

from benchmarks import memory_report


def test_every_network_is_twenty_times_faster_than_the_fastest_module():
    rows = memory_report.load("memory.json")["answer"]["rows"]
    assert [name for name, row in rows.items() if row.get("torch", 20) < 20] == []


def test_every_similarity_is_within_twice_of_reading_the_memory_once():
    found = memory_report.load("memory.json")["similarity"]
    assert found["bytes"] == 100_000 * 60
    ratios = [
        row["ratio"]
        for p in ("cached", "main memory")
        for row in found[p].values()
        if "ratio" in row
    ]
    assert len(ratios) == 6
    assert max(ratios) <= 2


def test_the_section_names_every_row():
    text = memory_report.section()
    assert "compiled Q-MANN 8-bit, MQ" in text
    assert all(title in text for title in (*memory_report.BOARDS.values(), "hamming, cached"))
    assert text.count("|\n") >= 8 + 8 + 10
