"""All tests run on 8 simulated devices; what is not told otherwise uses the first."""

import itertools
import tempfile

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# Many tests compile the same program; a cache that lives as long as the tests saves half of it.
_CACHE = tempfile.TemporaryDirectory(prefix="transformer_jax_tests_")
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# The same cases in each run; `pytest --hypothesis-profile search` draws new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="module", autouse=True)
def _few_programs_at_a_time():
    """Drops what a file compiled: each program takes some maps of memory, of which Linux gives a
    process 65,530, and LLVM aborts when they are used up."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def quick_compilation():
    """Tiny programs run as fast without most optimizations, which take half of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


WORDS = {
    "red": "rouge",
    "green": "vert",
    "blue": "bleu",
    "cat": "chat",
    "dog": "chien",
    "house": "maison",
    "sees": "voit",
    "the": "le",
}


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory):
    """A folder with train.tsv, valid.tsv and test.tsv: word-by-word translations."""
    folder = tmp_path_factory.mktemp("pairs")
    sentences = [words for n in (2, 3) for words in itertools.permutations(WORDS, n)]
    lines = [
        " ".join(words) + "\t" + " ".join(WORDS[word] for word in words) for words in sentences
    ]
    for i, split in enumerate(("valid", "test", "train")):
        chosen = (
            lines[i::10]
            if split != "train"
            else [line for j, line in enumerate(lines) if j % 10 not in (0, 1)]
        )
        (folder / f"{split}.tsv").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return folder
