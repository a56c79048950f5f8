"""Damaged run folders, a few of very many: `run_fuzzing.py` by itself tries them."""

import run_fuzzing


def test_damaged_run_folders_are_refused_in_a_line_or_do_no_harm(tmp_path):
    counts, faults = run_fuzzing.fuzz(12, seed=1, root=tmp_path)
    assert faults == []
    assert {outcome for _, outcome in counts} == {"refused", "no harm"}
    assert len({program for program, _ in counts}) >= 3


def test_what_is_silently_wrong_or_fails_otherwise_is_found(tmp_path):
    """Else no fault could ever be found."""

    def program(does):
        def run(folder, whole):
            return does(folder)

        return run

    def fails(folder):
        return {}["no such"]

    def changes(folder):
        (folder / "written").write_text("")
        raise run_fuzzing.InputError("x.json is damaged.")

    for does, wanted in (
        (fails, "traceback"),
        (changes, "changed"),
        (lambda folder: "other", "wrong"),
        (lambda folder: "same", "no harm"),
    ):
        found, _ = run_fuzzing.verdict(program(does), tmp_path, None, "same")
        assert found == wanted
