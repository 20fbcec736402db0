"""A small MarianMTModel of odd sizes in a folder of its own, trained until it translates."""

import itertools
import json
import random

import sentencepiece
import torch
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

WORDS = {
    "red": "rouge",
    "green": "vert",
    "blue": "bleu",
    "cat": "chat",
    "dog": "chien",
    "house": "maison",
    "sees": "voit",
    "takes": "prend",
    "the": "le",
    "small": "petit",
}
SENTENCES = [" ".join(words) for n in (2, 3, 4) for words in itertools.permutations(WORDS, n)]
LONGEST = 24  # tokens that are generated at most
TESTED = random.Random(1).sample(SENTENCES, 20)


def translation(sentence):
    """Word by word; what follows "the" comes in the other order, so that attention matters."""
    words = [WORDS[word] for word in sentence.split()]
    if WORDS["the"] in words:
        at = words.index(WORDS["the"]) + 1
        words[at:] = words[at:][::-1]
    return " ".join(words) + "."


def noisy(text, chosen):
    """Some words are said again or not at all, so that lengths are open and penalties matter."""
    return " ".join(w for word in text.split() for w in [word] * chosen.choice((0, 1, 1, 1, 1, 2)))


def train_sentencepiece(texts, path, vocab_size):
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            bos_id=-1,
            eos_id=0,
            unk_id=1,
            minloglevel=2,
        )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def make_tokenizer(folder, *, separate=False):
    """Two SentencePiece models, and vocabularies in the order of opus-mt: end, unknown, ... pad."""
    folder.mkdir(parents=True, exist_ok=True)
    source = train_sentencepiece(SENTENCES, folder / "source.spm", 34)
    target = train_sentencepiece(map(translation, SENTENCES), folder / "target.spm", 40)

    def vocabulary(pieces):
        others = sorted(set(pieces) - {"</s>", "<unk>"})
        random.Random(0).shuffle(others)
        names = ["</s>", "<unk>", ">>fra<<", *others, "<pad>"]
        return {name: i for i, name in enumerate(names)}

    files = {"vocab": "vocab.json"}
    if separate:
        both = [vocabulary(source), vocabulary(target)]  # the paddings have different ids
        files["target_vocab_file"] = "target_vocab.json"
    else:
        both = [vocabulary(source + target)]
    for name, names in zip(files.values(), both, strict=True):
        (folder / name).write_text(json.dumps(names))
    spm = {f"{side}_spm": str(folder / f"{side}.spm") for side in ("source", "target")}
    paths = {key: str(folder / name) for key, name in files.items()}
    tokenizer = MarianTokenizer(**spm, **paths, separate_vocabs=separate)
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_model(tokenizer, seed=0, **changes):
    """Odd sizes, other ones in the decoder; tokens as in opus-mt."""
    torch.manual_seed(seed)
    pad = tokenizer.pad_token_id
    settings = dict(
        vocab_size=pad + 1,
        d_model=24,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=3,
        decoder_attention_heads=2,
        encoder_ffn_dim=44,
        decoder_ffn_dim=36,
        max_position_embeddings=64,
        activation_function="swish",
        dropout=0.0,
        scale_embedding=True,
        init_std=0.1,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=pad,
        forced_eos_token_id=tokenizer.eos_token_id,
    )
    model = MarianMTModel(MarianConfig(**(settings | changes)))
    model.final_logits_bias.normal_(0.0, 0.3)
    generation = model.generation_config
    generation.bad_words_ids = [[pad]]
    generation.num_beams = 4
    generation.max_length = LONGEST + 1  # counts the start token
    return model.eval()


def encode(tokenizer, sentences):
    """(source ids, attention mask), padded."""
    batch = tokenizer(sentences, return_tensors="pt", padding=True)
    return batch.input_ids, batch.attention_mask


def encode_targets(tokenizer, texts):
    """Target ids with their end, padded."""
    return tokenizer(text_target=texts, return_tensors="pt", padding=True).input_ids


def loss_of(model, tokenizer, sentences, translations):
    """Mean cross-entropy of the tokens that are not padding."""
    source, mask = encode(tokenizer, sentences)
    targets = encode_targets(tokenizer, translations)
    start = torch.full((len(targets), 1), model.config.decoder_start_token_id)
    inputs = torch.cat([start, targets[:, :-1]], dim=1)
    logits = model(input_ids=source, attention_mask=mask, decoder_input_ids=inputs).logits
    real = targets != tokenizer.pad_token_id
    return torch.nn.functional.cross_entropy(logits[real], targets[real])


def trained_folder(folder):
    """Trains for some hundred steps; translations are right for many inputs, not for all."""
    tokenizer = make_tokenizer(folder)
    model = make_model(tokenizer)
    adam = torch.optim.Adam(model.parameters(), lr=5e-3)
    chosen = random.Random(0)
    model.train()
    for _ in range(300):
        adam.zero_grad()
        batch = chosen.sample(SENTENCES, 48)
        translations = [noisy(translation(sentence), chosen) for sentence in batch]
        loss_of(model, tokenizer, batch, translations).backward()
        adam.step()
    model.eval().save_pretrained(folder)
    return model, tokenizer
