import multiprocessing
import pickle

import pytest

from transrec.config import ConfigError
from transrec.item_encoders import backbones
from transrec.item_encoders.text import TextContent, TextEncoderConfig

CLS, SEP, UNK, RED_LOWER, RED_UPPER, SHOE, HAT = 2, 3, 1, 5, 7, 8, 9


def content(folder, **fields) -> TextContent:
    return TextEncoderConfig(backbone=str(folder), **fields).content()["text"]


def test_encode_adds_special_tokens_and_lower_cases(tiny_bert):
    records = [{"text": "Red shoe"}, {"text": "hat"}]
    assert content(tiny_bert).encode(records) == [[CLS, RED_LOWER, SHOE, SEP], [CLS, HAT, SEP]]
    assert content(tiny_bert, lowercase=False).encode(records)[0] == [CLS, RED_UPPER, SHOE, SEP]
    assert content(tiny_bert).encode([]) == []


def test_truncation_counts_the_special_tokens(tiny_bert):
    (ids,) = content(tiny_bert, max_tokens=4).encode([{"text": "red shoe hat the"}])
    assert ids == [CLS, RED_LOWER, SHOE, SEP]


def test_fields_are_joined_by_a_space_and_empty_ones_left_out(tiny_bert):
    records = [{"title": "red", "text": "shoe"}, {"title": None, "text": "shoe"}, {"title": "", "text": ""}]
    assert content(tiny_bert, fields=["title", "text"]).encode(records) == [
        [CLS, RED_LOWER, SHOE, SEP],
        [CLS, SHOE, SEP],
        [CLS, SEP],
    ]


def test_a_field_that_items_do_not_have_is_named(tiny_bert):
    with pytest.raises(ConfigError, match="no 'titel': choose among its fields, text, title"):
        content(tiny_bert, fields=["titel"]).encode([{"title": "red", "text": "shoe"}])


def test_pad_id_and_chunk_tokens(tiny_bert):
    made = content(tiny_bert, chunk_tokens=77)
    assert (made.pad_id, made.chunk_tokens) == (0, 77)


def test_key_changes_with_what_encode_depends_on_and_with_nothing_else(tiny_bert, tmp_path):
    key = content(tiny_bert).key
    used = content(tiny_bert, chunk_tokens=5, dropout=0.0, pooling="mean", pretrained=False)
    used.encode([{"text": "red"}])  # the tokenizer now carries our truncation; the key must not
    assert used.key == key
    backbones.load_tokenizer(str(tiny_bert)).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
    assert content(tmp_path).key == key, "the same tokenizer in another folder"
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"shoe"', '"boot"'))
    others = [
        content(tmp_path).key,
        content(tiny_bert, fields=["title"]).key,
        content(tiny_bert, max_tokens=5).key,
        content(tiny_bert, lowercase=False).key,
    ]
    assert len({key, *others}) == 5


def test_nothing_is_loaded_before_it_is_needed(monkeypatch):
    monkeypatch.setattr(backbones, "load_tokenizer", lambda name: pytest.fail("loaded"))
    made = content("all-MiniLM-L6-v2")
    assert pickle.loads(pickle.dumps(made)).config == made.config


def test_survives_pickling_and_forking_after_use(tiny_bert):
    made = content(tiny_bert)
    records = [{"text": "red shoes"}] * 64
    expected = made.encode(records)
    assert pickle.loads(pickle.dumps(made)).encode(records) == expected
    parent, child = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=lambda: child.send(made.encode(records)))
    process.start()
    assert parent.poll(30), "the forked worker hangs in the tokenizer"
    assert parent.recv() == expected
    process.join()
