"""GLUE's official files, read as TensorFlow Datasets reads them."""

import pytest
from tensorflow_datasets.text import glue as tfds_glue

from transformer_jax.data.glue import GLUE_TASKS, glue_file, glue_task, read_glue
from transformer_jax.data.labelled_text import label_ids, scores
from transformer_jax.errors import UserError

CONFIGS = {config.name: config for config in tfds_glue.Glue.BUILDER_CONFIGS}

MNLI = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse "
    "sentence2_parse sentence1 sentence2"
)
STSB = "index genre filename year old_index source1 source2 sentence1 sentence2"
NLI = "index sentence1 sentence2"

# The headers of the official train and dev files, and those of the test files.
HEADERS = {
    "cola": ("", "index sentence"),
    "sst2": ("sentence label", "index sentence"),
    "stsb": (f"{STSB} score", STSB),
    "qqp": ("id qid1 qid2 question1 question2 is_duplicate", "id question1 question2"),
    "qnli": ("index question sentence label", "index question sentence"),
    "rte": (f"{NLI} label", NLI),
    "wnli": (f"{NLI} label", NLI),
    "ax": ("", NLI),
}
MRPC = (
    ["\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
    ["index", "#1 ID", "#2 ID", "#1 String", "#2 String"],
)
LABELS = {
    "stsb": ["3.800", "0.0", "5.000", "2.5"],
    "qnli": ["not_entailment", "entailment"],
    "rte": ["not_entailment", "entailment"],
    "mnli": ["neutral", "contradiction", "entailment"],
    "mnli_mismatched": ["neutral", "contradiction", "entailment"],
}
CASES = [(name, split) for name, task in GLUE_TASKS.items() for split in task.files]


def header_of(name, split):
    if name == "mrpc":
        return MRPC[split == "test"]
    if name in ("mnli", "mnli_mismatched"):
        labels = {"train": " label1", "valid": " label1 label2 label3 label4 label5", "test": ""}
        return (MNLI + labels[split] + (" gold_label" if split != "test" else "")).split()
    return HEADERS[name][split == "test"].split()


def official(name, split, count=5):
    """A file as GLUE distributes it: its bytes."""
    header = header_of(name, split)
    columns = header or [
        "source",
        "is_acceptable",
        "star",
        "text",
    ]  # CoLA's, which it does not name
    label = {"cola": "is_acceptable", "mrpc": MRPC[0][0]}.get(name, CONFIGS[name].label_column)
    labels = LABELS.get(name, ["1", "0", "1"])
    rows = [header] if header else []
    for i in range(count):
        rows.append([f'"{column} {i}' for column in columns])  # quotes that are never closed
        if label in columns and split != "test":
            rows[-1][columns.index(label)] = labels[i % len(labels)]
    return "".join("\t".join(row) + "\n" for row in rows).encode()


def write(folder, name, split, content):
    glue_file(name, folder, split).write_bytes(content)
    return folder


def read_by_tfds(name, folder, split):
    """What TensorFlow Datasets makes of the same file: texts and labels."""
    file = str(glue_file(name, folder, split))
    builder = tfds_glue.Glue(config=name, data_dir=str(folder / "tfds"))
    files = None
    if name == "mrpc":  # which it splits by the numbers of dev_ids
        ids = folder / "ids"
        ids.write_text(
            "" if split == "train" else "".join(f'"#1 ID {i}\t"#2 ID {i}\n' for i in range(9))
        )
        files = {"dev_ids": str(ids), "train": file, "test": file}
    examples = builder._generate_examples(file, {"valid": "dev"}.get(split, split), files)
    first, *second = CONFIGS[name].text_features
    examples = [example for _, example in examples]
    classes = CONFIGS[name].label_classes
    labels = [example["label"] for example in examples]
    if classes:
        labels = [classes.index(label) if label in classes else label for label in labels]
    return (
        [e[first] for e in examples],
        [e[second[0]] for e in examples] if second else None,
        labels,
    )


@pytest.mark.parametrize(("name", "split"), CASES)
def test_official_files_are_read_as_tensorflow_datasets_reads_them(tmp_path, name, split):
    write(tmp_path, name, split, official(name, split))
    text = read_glue(name, tmp_path, split)
    first, second, labels = read_by_tfds(name, tmp_path, split)
    assert (text.first, text.second) == (first, second)
    assert len(set(text.first)) == 5
    if split == "test":
        assert text.labels is None and set(labels) == {-1}
    elif glue_task(name).kind == "regression":
        assert scores(text, "x").tolist() == labels
    else:
        assert label_ids(text, glue_task(name).labels, "x").tolist() == labels


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_classes_are_in_the_order_of_tensorflow_datasets(name):
    task, classes = glue_task(name), CONFIGS[name].label_classes
    assert (task.kind == "regression") == (classes is None)
    if task.labels and task.labels != ("0", "1"):  # those stand in the files by their numbers
        assert list(task.labels) == classes
    assert len(task.labels) == len(classes or [])


def test_every_task_of_the_benchmark_is_there():
    matched = {"mnli_matched"}  # an evaluation of mnli, which is ours by that name
    assert set(GLUE_TASKS) == set(CONFIGS) - matched
    with pytest.raises(UserError, match=r"no task 'CoLA', only cola, sst2, .*ax"):
        glue_task("CoLA")


def test_each_evaluation_of_mnli_has_its_own_files(tmp_path):
    names = {
        (name, split): glue_file(name, tmp_path, split).name
        for name in ("mnli", "mnli_mismatched")
        for split in ("train", "valid", "test")
    }
    assert list(names.values()) == [
        "train.tsv",
        "dev_matched.tsv",
        "test_matched.tsv",
        "train.tsv",
        "dev_mismatched.tsv",
        "test_mismatched.tsv",
    ]


# Line 2 has a break inside of its second question, as some have in the official file.
BROKEN = (
    b"id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    b"7\t1\t2\tWho?\tWho was\n\twho?\t0\n8\t3\t4\tWhy?\tHow?\t0\n9\t5\t6\tWhat?\t\t1\n"
)


def test_broken_lines_of_qqp_are_left_out_of_train_and_counted(tmp_path):
    write(tmp_path, "qqp", "train", BROKEN)
    with pytest.warns(UserWarning, match=r"train\.tsv: 2 broken lines are left out"):
        text = read_glue("qqp", tmp_path, "train")
    assert (text.first, text.second, text.labels) == (["Why?", "What?"], ["How?", ""], ["0", "1"])
    assert text.lines == [4, 5]
    assert (text.first, text.second) == read_by_tfds("qqp", tmp_path, "train")[:2]


def test_whole_lines_are_read_without_a_warning(tmp_path, recwarn):
    read_glue("qqp", write(tmp_path, "qqp", "train", official("qqp", "train")), "train")
    assert not recwarn.list


def test_broken_lines_elsewhere_are_errors(tmp_path):
    with pytest.raises(UserError, match=r"dev\.tsv:2 has 5 fields where it needs 6"):
        read_glue("qqp", write(tmp_path, "qqp", "valid", BROKEN), "valid")
    broken = official("rte", "train") + b"9\tone text only\tentailment\n"
    with pytest.raises(UserError, match=r"train\.tsv:7 has 3 fields where it needs 4"):
        read_glue("rte", write(tmp_path, "rte", "train", broken), "train")
    broken = official("cola", "train") + b"a sentence alone\n"
    with pytest.raises(UserError, match=r"train\.tsv:6 has 1 fields where it needs 4"):
        read_glue("cola", write(tmp_path, "cola", "train", broken), "train")


def test_bad_labels_are_named_with_their_line(tmp_path):
    content = official("cola", "valid", 2) + b"gj04\t\t\tNo label.\n"
    with pytest.raises(UserError, match=r"dev\.tsv:3 has an empty label"):
        read_glue("cola", write(tmp_path, "cola", "valid", content), "valid")
    content = official("cola", "valid", 2) + b"gj04\t*\t\tWrong column.\n"
    text = read_glue("cola", write(tmp_path, "cola", "valid", content), "valid")
    with pytest.raises(UserError, match=r"dev\.tsv:3 has the label '\*', .* 0, 1\."):
        label_ids(text, glue_task("cola").labels, glue_file("cola", tmp_path, "valid"))


def test_a_test_file_with_labels_keeps_them(tmp_path):
    content = official("mrpc", "train")  # so is Microsoft's msr_paraphrase_test.txt
    text = read_glue("mrpc", write(tmp_path, "mrpc", "test", content), "test")
    assert text.labels == ["1", "0", "1", "1", "0"]


def test_files_of_other_tasks_splits_and_names_are_errors(tmp_path):
    write(tmp_path, "sst2", "train", official("sst2", "train"))
    with pytest.raises(UserError, match=r"train\.tsv:1 names no column 'question', only 'sentence"):
        read_glue("qnli", tmp_path, "train")
    write(tmp_path, "rte", "valid", official("rte", "test"))
    with pytest.raises(UserError, match=r"dev\.tsv:1 names no column 'label'"):
        read_glue("rte", tmp_path, "valid")
    with pytest.raises(UserError, match=r"dev_mismatched\.tsv is missing\. .*test_mismatched\.tsv"):
        read_glue("mnli_mismatched", tmp_path, "valid")
    with pytest.raises(UserError, match="ax has no split 'train', only test"):
        read_glue("ax", tmp_path, "train")
    with pytest.raises(UserError, match="'dev' is none of train, valid, test"):
        read_glue("cola", tmp_path, "dev")


def test_the_diagnostic_set_with_its_labels_is_read_where_it_lies(tmp_path):
    head = "Lexical Semantics\tDomain\tPremise\tHypothesis\tLabel"
    (tmp_path / "diagnostic-full.tsv").write_text(f"{head}\n\tnews\tA cat.\tA dog.\tneutral\n")
    text = read_glue("ax", tmp_path, "test")
    assert (text.first, text.second, text.labels) == (["A cat."], ["A dog."], ["neutral"])
