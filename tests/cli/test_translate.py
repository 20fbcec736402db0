"""Lines in, one translation a line out, whatever the lines are."""

import io
import sys

import pytest

from transformer_jax.cli import export as export_cli
from transformer_jax.cli import translate as translate_cli


@pytest.fixture(scope="session")
def imported(translation_run, tmp_path_factory):
    """The same model as a folder of Hugging Face."""
    folder = tmp_path_factory.mktemp("imported") / "marian"
    options = ["--model", str(translation_run), "--output", str(folder)]
    assert export_cli.main(options) == 0
    return folder


@pytest.fixture
def translate(translation_run, monkeypatch, capfd):
    def call(data, *options, model=translation_run):
        capfd.readouterr()
        stdin = io.TextIOWrapper(io.BytesIO(data))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert translate_cli.main(["--model", str(model), *options]) == 0
        out, err = capfd.readouterr()
        assert out == "" or out.endswith("\n")
        return out.split("\n")[:-1], err

    return call


def test_translates_what_it_has_learned(translate):
    lines, err = translate(b"the cat sees\nred house\n")
    assert lines == ["le chat voit", "rouge maison"]
    assert err == ""


def test_order_is_kept_and_empty_lines_stay_empty(translate):
    sentences = ["red house", "", "the cat sees", "   ", "blue dog"]
    lines, _ = translate("\n".join(sentences).encode())  # and no newline at the end
    assert len(lines) == 5
    assert lines[1] == lines[3] == ""
    assert [lines[i] for i in (0, 2, 4)] == [
        translate(sentences[i].encode())[0][0] for i in (0, 2, 4)
    ]


def test_odd_lines_are_said_on_stderr_and_lose_no_line(translate):
    data = b"red house\n\xff\xfe red\n\xf0\x9f\x98\x80 \xf0\x9f\x98\x80\nthe\x00cat\n" + (
        b"red house " * 5000 + b"\nblue dog\r\n"
    )
    lines, err = translate(data, "--max-tokens", "64")
    assert len(lines) == 6
    assert lines[0] == translate(b"red house\n")[0][0]
    assert lines[5] == translate(b"blue dog\n")[0][0]
    assert "line 2 is not UTF-8" in err
    assert "line 5 has" in err and "cut to 64" in err
    assert err.count("\n") == 2


def test_n_best_come_best_first_with_their_scores(translate):
    lines, _ = translate(b"red house\n\nblue dog\n", "--n-best", "3", "--scores")
    assert len(lines) == 9
    assert lines[3:6] == ["0.0000\t"] * 3
    for group in (lines[:3], lines[6:]):
        scores = [float(line.split("\t")[0]) for line in group]
        assert scores == sorted(scores, reverse=True) and scores[0] <= 0.0
        assert len(set(group)) == 3  # two may have one text, of other pieces
    best, _ = translate(b"red house\n\nblue dog\n")
    assert [lines[i].split("\t")[1] for i in (0, 3, 6)] == best


def test_no_input_gives_no_output(translate):
    assert translate(b"") == ([], "")


def test_alignments_are_pairs_of_words(translate):
    data = b"the cat sees\n\nred house\n"
    lines, _ = translate(data, "--alignments", "--scores", "--n-best", "2")
    plain, _ = translate(data, "--scores", "--n-best", "2")
    assert [line.rsplit("\t", 1)[0] for line in lines] == plain
    source_words = {0: 3, 1: 3, 2: 0, 3: 0, 4: 2, 5: 2}
    for number, line in enumerate(lines):
        _, text, links = line.split("\t")
        pairs = [tuple(map(int, link.split("-"))) for link in links.split()]
        assert [target for _, target in pairs] == list(range(len(text.split())))
        assert all(source < source_words[number] for source, _ in pairs)


def test_samples_repeat_with_the_seed(translate):
    data = b"the cat sees\nred house\n" * 4

    def draw(*options):
        return translate(data, "--sample", "--temperature", "3", *options)[0]

    assert draw("--seed", "1") == draw("--seed", "1") != draw("--seed", "2")
    greedy, _ = translate(data, "--beam-size", "1")
    assert draw("--top-k", "1") == draw("--top-p", "1e-9") == greedy
    assert len(draw("--n-best", "3")) == 24


def test_the_number_of_rows_changes_nothing(translate):
    data = b"the cat sees\nred house\nblue dog\n" * 3
    assert translate(data, "--batch-size", "2") == translate(data)


def test_search_options_reach_the_search(translate):
    data = b"the cat sees the dog\n"
    (short,), _ = translate(data, "--max-length", "3")
    (whole,), _ = translate(data)
    assert len(short) < len(whole)
    options = ("--scores", "--beam-size", "1", "--length-rule")
    (plain,), _ = translate(data, *options, "plain", "--length-penalty", "0")
    (gnmt,), _ = translate(data, *options, "gnmt", "--length-penalty", "0")
    assert plain == gnmt
    (covered,), _ = translate(data, "--scores", "--coverage-penalty", "0.5")
    (free,), _ = translate(data, "--scores")
    assert float(covered.split("\t")[0]) < float(free.split("\t")[0])


def test_an_imported_folder_translates_the_same(translate, imported):
    data = b"the cat sees\n\nred house\nblue dog\n"
    # The rule by which the paper scores has no name in such a folder.
    rule = ("--length-rule", "plain", "--length-penalty", "1", "--max-length", "60")
    options = ("--n-best", "2", "--scores", "--alignments", *rule)
    assert translate(data, *options, model=imported) == translate(data, *options)


@pytest.mark.parametrize(
    "options,message",
    [
        (["--model", "nowhere"], "not the folder of a run"),
        (["--n-best", "5"], "--n-best 5 must be 1 to --beam-size 4"),
        (["--step", "7"], "has latest, best, 250"),
        (["--temperature", "0", "--sample"], "temperature=0.0 must be above 0"),
        (["--top-p", "1.5", "--sample"], "top_p=1.5"),
        (["--beam-size", "0"], "beam_size=0"),
        (["--coverage-penalty", "-1"], "coverage_penalty=-1.0"),
        (["--max-length", "0"], "max_length=0"),
        (["--max-tokens", "1"], "--max-tokens 1"),
        (["--batch-size", "0"], "--batch-size 0"),
    ],
)
def test_what_cannot_be_is_refused(translation_run, capfd, options, message):
    assert translate_cli.main(["--model", str(translation_run), *options]) == 1
    out, err = capfd.readouterr()
    assert out == "" and message in err


@pytest.mark.parametrize("options", [["--step", "latest"], ["--average", "2"]])
def test_an_imported_folder_has_no_steps(imported, capfd, options):
    assert translate_cli.main(["--model", str(imported), *options]) == 1
    out, err = capfd.readouterr()
    assert out == "" and "--step and --average are of runs" in err
