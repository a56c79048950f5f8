"""Lines, vocabularies and batches of text against the original's plain loops."""

import collections
import logging
import shutil

import numpy as np
import pytest
import tensorflow as tf

from fid.files import InputError, write_json
from tf_ttur.datasets import text
from tf_ttur.datasets.text import TextData, Vocabulary

LINES = [
    "It was the best of times, it was the worst of times,",
    "short",
    "exactly thirty-two characters ok",
    "Größe: 3 µm – naïve café",
    "and a `quoted` word",
    "the end",
]


@pytest.fixture
def file(tmp_path):
    """Gives a function that writes a file and returns its pattern."""

    def write(content, name="text.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def load(pattern, **settings):
    return text.load("text_files", text_files=pattern, **{"held_out": 1} | settings)


def padded(lines, unit="characters"):
    """What the original makes of lines: tuples of 32 symbols."""
    if unit == "bytes":
        lines = [line.encode() for line in lines]
        return [tuple(line[:32]) + (ord("`"),) * (32 - len(line)) for line in lines]
    return [tuple(line[:32]) + ("`",) * (32 - len(line)) for line in lines]


def symbols_of(data):
    """All lines of the data as tuples of symbols."""
    codes = (None, *data.vocabulary.codes)
    rows = np.concatenate([data.tokens, data.held_out])
    if data.vocabulary.unit == "bytes":
        return [tuple(codes[x] for x in row) for row in rows]
    return [tuple(chr(codes[x]) if x else None for x in row) for row in rows]


@pytest.mark.parametrize("unit", text.UNITS)
def test_lines_are_those_of_the_original(file, unit):
    lines = LINES * 3
    data = load(file("\n".join(lines)), unit=unit)
    assert data.tokens.dtype == data.held_out.dtype == np.uint16
    assert (data.tokens.shape, data.held_out.shape) == ((17, 32), (1, 32))
    assert collections.Counter(symbols_of(data)) == collections.Counter(
        padded(lines, unit)
    )


@pytest.mark.parametrize("unit", text.UNITS)
def test_vocabulary_is_by_frequency_then_by_code(file, unit):
    data = load(file("\n".join(LINES * 3)), unit=unit)
    symbols = [
        x if unit == "bytes" else ord(x)
        for x in np.ravel(symbols_of(data)[:-1]).tolist()
    ]
    counts = collections.Counter(symbols)  # padding and backquotes are one symbol
    order = sorted(counts, key=lambda code: (-counts[code], code))
    assert list(data.vocabulary.codes) == order
    assert data.vocabulary.codes[0] == ord("`")
    assert len(data.vocabulary) == 1 + len(counts)
    assert data.tokens.min() >= 1


def test_what_the_vocabulary_has_no_room_for_is_unk(file, caplog):
    # All lines are one line, so that it does not matter which is held out.
    with caplog.at_level(logging.INFO, "tf_ttur"):
        data = load(file("aaabbc\n" * 5), max_vocabulary=3)
    assert data.vocabulary.codes == (ord("`"), ord("a"))
    assert data.tokens.tolist() == [[2, 2, 2, 0, 0, 0] + [1] * 26] * 4
    assert data.vocabulary.decode(data.held_out) == ["aaa" + 3 * "\ufffd" + 26 * "`"]
    assert (
        "Of 4 different characters, the 2 most frequent have a token id; the others, "
        "9.4% of the text, are unk."
    ) in caplog.messages


def test_encode_and_decode_agree(file):
    for unit in text.UNITS:
        data = load(file("\n".join(LINES)), unit=unit)
        lines = data.vocabulary.decode(data.tokens)
        np.testing.assert_array_equal(data.vocabulary.encode(lines), data.tokens)
        assert data.vocabulary.encode(lines).dtype == np.int32
    vocabulary = Vocabulary("bytes", tuple("abc`é".encode()))
    assert vocabulary.decode(vocabulary.encode(["abécz"]))[0][:6] == "abéc\ufffd`"


def test_vocabulary_is_saved_and_loaded(tmp_path, file):
    for unit in text.UNITS:
        vocabulary = load(file("\n".join(LINES)), unit=unit).vocabulary
        vocabulary.save(tmp_path / "vocabulary.json")
        assert Vocabulary.load(tmp_path / "vocabulary.json") == vocabulary


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"unit": "characters"},
        {"unit": "words", "codes": [1]},
        {"unit": None, "codes": [1]},
        {"unit": "bytes", "codes": []},
        {"unit": "bytes", "codes": [256]},
        {"unit": "bytes", "codes": [97, 97]},
        {"unit": "bytes", "codes": [True]},
        {"unit": "bytes", "codes": "ab"},
        {"unit": "characters", "codes": list(range(2048))},
    ],
)
def test_file_that_holds_no_vocabulary_is_named(tmp_path, wrong):
    write_json(tmp_path / "vocabulary.json", wrong)
    with pytest.raises(InputError, match=r"vocabulary\.json .*Bring the run"):
        Vocabulary.load(tmp_path / "vocabulary.json")


class TestTopics:
    def test_are_english_that_fits(self):
        data = text.load()
        lines = [x.rstrip("`") for x in data.vocabulary.decode(data.tokens)]
        assert len(data.held_out) == 640
        assert len(lines) > 5000
        assert 20 < np.mean([len(x) for x in lines]) <= 32
        words = collections.Counter(" ".join(lines).lower().split())
        assert {"the", "of", "a", "is", "to"} <= {x for x, _ in words.most_common(8)}
        assert not any(x in line for line in lines for x in ("::=", ">>>", "\n"))

    def test_are_the_same_each_time(self):
        one, two = text.load(), text.load(held_out=100)
        assert one.digest == text.load().digest != two.digest
        assert len(one.tokens) + 640 == len(two.tokens) + 100
        assert one.digest != text.load(unit="bytes").digest

    def test_held_out_lines_come_from_everywhere(self, file):
        def held_out(lines, count):
            data = load(file("\n".join(map(str, range(lines)))), held_out=count)
            found = data.vocabulary.decode(data.held_out)
            return [int(line.rstrip("`")) for line in found]

        # The same choice with any version of NumPy.
        assert held_out(20, 5) == [0, 2, 9, 11, 17]
        chosen = held_out(10_000, 640)
        assert len(set(chosen)) == 640
        assert np.histogram(chosen, 4, (0, 10_000))[0].min() > 100


class TestTraining:
    @pytest.fixture
    def data(self):
        lines = np.arange(50, dtype=np.uint16)[:, np.newaxis] * np.ones(32, np.uint16)
        vocabulary = Vocabulary("bytes", tuple(range(100)))
        return TextData("made up", vocabulary, lines, lines[:3])

    @staticmethod
    def take(data, count, *args, **kwargs):
        batches = data.training(*args, **kwargs).take(count)
        return np.stack(list(batches.as_numpy_iterator()))

    def test_batches_are_static_int32(self, data):
        batches = data.training(8, seed=0, discriminator_steps=3)
        assert batches.element_spec == tf.TensorSpec((24, 32), tf.int32)
        assert batches.cardinality() == tf.data.INFINITE_CARDINALITY

    def test_every_epoch_is_another_order_of_all_lines(self, data):
        batches = self.take(data, 10, 10, seed=0)
        assert (batches == batches[..., :1]).all()  # whole lines
        one, two = batches[:5, :, 0].ravel(), batches[5:, :, 0].ravel()
        assert sorted(one) == sorted(two) == list(range(50))
        assert not np.array_equal(one, two)
        assert not np.array_equal(one, self.take(data, 5, 10, seed=1)[..., 0].ravel())

    @pytest.mark.parametrize("discriminator_steps", [1, 4])
    def test_resumes_exactly(self, data, discriminator_steps):
        settings = {"seed": 7, "discriminator_steps": discriminator_steps}
        whole = self.take(data, 12, 8, **settings)
        tf.random.set_seed(1)
        rest = self.take(data, 5, 8, start_step=7, **settings)
        np.testing.assert_array_equal(rest, whole[7:])

    def test_batch_larger_than_the_text_is_an_error(self, data):
        with pytest.raises(
            InputError, match="made up has 50 lines to train on.*one batch of 51"
        ):
            data.training(51, seed=0)


class TestFiles:
    def test_are_read_by_path_and_empty_lines_left_out(self, file, tmp_path, caplog):
        file("b one\r\n\r\nb two\r\n", "b/two.txt")
        file("\ufeffa one\n  \na two", "a/one.txt")
        with caplog.at_level(logging.INFO, "tf_ttur"):
            data = load(str(tmp_path / "**" / "*.txt"))
        lines = data.vocabulary.decode(np.concatenate([data.tokens, data.held_out]))
        assert sorted(x.rstrip("`") for x in lines) == [
            "a one", "a two", "b one", "b two",
        ]  # fmt: skip
        assert "2 empty lines are left out." in caplog.messages

    def test_blocks_do_not_break_lines(self, file):
        # Files are read in blocks of 16 MB, whose ends fall into long lines here.
        lines = [f"line {i} " + "é" * 26_000 for i in range(1000)]
        short = load(file("\n".join(line[:32] for line in lines)))
        content = "\n".join(lines).encode()
        assert len(content) > 3 << 24
        assert load(file(content)).digest == short.digest
        with pytest.raises(InputError, match="line 1001 is not UTF-8"):
            load(file(content + b"\nab\xff"))

    def test_no_more_lines_are_read_than_asked_for(self, file):
        data = load(file("one\none\none\none\ntwo\ntwo"), max_lines=4)
        lines = np.concatenate([data.tokens, data.held_out])
        assert data.vocabulary.decode(lines) == ["one".ljust(32, "`")] * 4

    def test_bytes_that_are_no_unicode(self, file):
        content = "first\nSão Paulo\nthird\n".encode("latin-1")
        with pytest.raises(
            InputError,
            match=r"text\.txt, line 2 is not UTF-8 \(byte 0xe3.*--unit=bytes",
        ):
            load(file(content))
        data = load(file(content), unit="bytes")
        assert 0xE3 in data.vocabulary.codes

    @pytest.mark.parametrize("unit", text.UNITS)
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", r"text\.txt is empty"),
            (b"one\ntwo\n\x7fELF\0\0\n", r"text\.txt, line 3 has a NUL byte"),
            ("one\ntwo".encode("utf-16"), r"text\.txt, line 1 has a NUL byte"),
            (b"\n \n\n", "has 0 lines, too few"),
            (b"one\n", "has 1 lines, too few to hold 1 out"),
        ],
    )
    def test_what_is_no_text(self, file, unit, content, message):
        with pytest.raises(InputError, match=message):
            load(file(content), unit=unit)

    def test_endless_line(self, file):
        with pytest.raises(InputError, match="line 2 is longer than 16 MB"):
            load(file(b"one\n" + b"x" * (3 << 24)))

    def test_a_file_that_matches_twice_is_read_once(self, tmp_path):
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "b" / "x.txt").write_text("one\ntwo\nthree\n")
        data = load(str(tmp_path / "**" / "**" / "*.txt"))
        assert len(data.tokens) + len(data.held_out) == 3

    def test_patterns_that_match_no_file(self, tmp_path):
        (tmp_path / "folder").mkdir()
        with pytest.raises(InputError, match=r"matches nothing: give a pattern"):
            load(str(tmp_path / "*.txt"))
        with pytest.raises(InputError, match="matches no file, only folders"):
            load(str(tmp_path / "*"))


def example_lines(split, count):
    return [f"{split} sentence number {i} ." for i in range(count)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which TFDS has prepared lm1b, in three shards a split."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    real = tfds.builder("lm1b", data_dir=root)
    tfds.dataset_builders.store_as_tfds_dataset(
        name=real.name,
        version=str(real.version),
        features=real.info.features,
        split_datasets={
            split: [(i, {"text": x}) for i, x in enumerate(example_lines(split, n))]
            for split, n in (("train", 90), ("test", 20))
        },
        data_dir=root,
        download_config=tfds.download.DownloadConfig(num_shards=3),
    )
    return root


class TestOneBillionWords:
    def check(self, data):
        lines = [
            [x.rstrip("`") for x in data.vocabulary.decode(tokens)]
            for tokens in (data.tokens, data.held_out)
        ]
        assert sorted(lines[0]) == sorted(example_lines("train", 90))
        assert len(set(lines[1])) == 15
        assert set(lines[1]) <= set(example_lines("test", 20))

    def test_are_read_as_tfds_prepares_them(self, prepared):
        self.check(text.load("lm1b", data_dir=prepared, held_out=15))
        with pytest.raises(InputError, match="too few to hold 21 out"):
            text.load("lm1b", data_dir=prepared, held_out=21)

    def test_damaged_and_short_files_are_errors(self, prepared, tmp_path):
        for size, message in ((-7, "damaged"), (0, "0? ?of 90 lines.*cut short")):
            copy = shutil.copytree(prepared, tmp_path / str(size))
            shard = min(copy.glob("lm1b/*/*-train.tfrecord-00002*"))
            content = shard.read_bytes()
            shard.write_bytes(content[:size] if size else b"")
            with pytest.raises(InputError, match=message):
                text.load("lm1b", data_dir=copy, held_out=15)

    def test_message_says_at_once_what_to_do(self, tmp_path):
        with pytest.raises(InputError, match=r"lm1b/1\.1\.0.*download_and_prepare"):
            text.load("lm1b", data_dir=tmp_path)

    def raw(self, folder, shards=range(1, 100), held_out=True):
        train = folder / "training-monolingual.tokenized.shuffled"
        train.mkdir()
        for number in shards:
            lines = example_lines("train", 90)[number - 1 : number]
            (train / f"news.en-{number:05}-of-00100").write_text(
                "\n".join(lines or ["\n"])
            )
        if held_out:
            other = folder / "heldout-monolingual.tokenized.shuffled"
            other.mkdir()
            for number in range(2):
                (other / f"news.en.heldout-{number:05}-of-00050").write_text(
                    "\n".join(example_lines("test", 20)[number::2])
                )
        return folder

    def test_are_read_as_the_authors_pack_them(self, tmp_path):
        data_dir = self.raw(tmp_path)
        self.check(text.load("lm1b", data_dir=data_dir, held_out=15))

    def test_without_held_out_files_some_lines_are_held_out(self, tmp_path):
        data_dir = self.raw(tmp_path, held_out=False)
        data = text.load("lm1b", data_dir=data_dir, held_out=15)
        assert (len(data.tokens), len(data.held_out)) == (75, 15)

    def test_missing_shards_are_named(self, tmp_path):
        data_dir = self.raw(tmp_path, range(1, 60))
        with pytest.raises(
            InputError, match="lacks 40 of 99 files, news.en-00060-of-00100 first"
        ):
            text.load("lm1b", data_dir=data_dir)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "books"}, "Unknown text 'books': choose from pydoc_topics"),
        ({"unit": "words"}, "Unknown unit 'words': choose from characters, bytes"),
        ({"name": "text_files"}, "--text_files go together"),
        ({"text_files": "*.txt"}, "--text_files go together"),
        ({"held_out": 0}, "held_out is 0"),
        ({"max_vocabulary": 2049}, "max_vocabulary 2049"),
        ({"max_lines": 1}, "max_lines 1"),
        ({"held_out": 10**6}, "too few to hold 1000000 out"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(InputError, match=message):
        text.load(**settings)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "text_files", "text_files": "~nosuchuser/*.txt"},
        {"name": "lm1b", "data_dir": "~nosuchuser/x"},
    ],
)
def test_text_in_the_home_of_no_user_is_named(options):
    with pytest.raises(InputError, match="~nosuchuser, and there is no such home"):
        text.load(**options)
