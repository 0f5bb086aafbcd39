"""Tiny random checkpoints on disk, and a naive reference for their features.

Every checkpoint is what `save_pretrained` writes for a real encoder, only small: three
layers of width 32, a few hundred tokens, 64 positions. Nothing is downloaded. Weights
are drawn from one seed at a scale where layers and tokens really differ.
`naive_features` reads such a checkpoint with plain transformers, one text at a time.

This module must not import `sklearn_bert`: it is what `sklearn_bert` is compared with.
"""

import functools
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "A film that is funny, warm and a little sad.",
    "The plot makes no sense, and the ending is worse.",
    "I loved every minute of this wonderful movie!",
    "The acting was wooden and the script was terrible.",
    "Paris is the capital of France and a very old city.",
    "The court held that the contract was void.",
    "The defendant appealed the decision to a higher court.",
    "Proteins are folded by molecular chaperones in the cell.",
    "The reaction was heated to 350 degrees for 12 hours.",
    "Stocks fell sharply on Monday as oil prices rose.",
    "The bank raised its interest rate by 0.25 percent.",
    "Our team won the final game by 3 goals to 1.",
    "She runs ten kilometres before breakfast every morning.",
    "Please send the signed form to the office by Friday.",
    "How do I reset the password of my account?",
    "The train to London leaves from platform nine.",
    "He cooked rice with beans, onions and a lot of garlic.",
    "My phone does not charge any more; what should I do?",
    "It rained all night, but the morning was bright and clear.",
    "The children were playing football in the park.",
    "Nobody knows where the old key was hidden.",
    "We trained the model on small data and tested it on more.",
    "The encoder is frozen, so its features can be stored.",
    "Words that appear often become tokens of their own.",
    "Unhappily, the unbelievable results were unrepeatable.",
    "This is not good. This is not bad. This is what it is.",
    "She said: 'I will be there at 7:30, or not at all.'",
    "The museum has paintings, drawings and sculptures.",
    "A dog chased a cat, and the cat climbed a tree.",
    "The software crashed twice while saving the document.",
    "New rules for the use of water were announced in 2024.",
    "Turn left at the church, then walk for five minutes.",
    "The book is long, slow and beautifully written.",
    "Customers complained about late and missing deliveries.",
    "Read the label before taking this medicine.",
    "The garden was full of roses, lilies and bees.",
    "Scientists measured the distance to a nearby star.",
    "There is a café in Zürich with très bonne crème brûlée.",
    "El niño comió una piña mañana por la mañana.",
    "Straße, Übung, Ärger, naïve, façade, smörgåsbord, Łódź.",
    "東京は日本の首都です。",
    "我们 喜欢 看 电影 。",
    "So happy today 😀 🎉 best day ever ❤",
    "@user look at https://example.com/a?b=1 #wow :-)",
    "0 1 2 3 4 5 6 7 8 9 10 20 30 40 50 100 1000 1234567890",
]

BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
N_POSITIONS = 64
# Position ids of RoBERTa and its kin start at pad id + 1 = 2.
OFFSET_POSITIONS = N_POSITIONS + 2
SIZES = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 64,
}
ROBERTA_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
WEIGHT_SCALE = 0.3


# Tokenizers. The WordPiece and Unigram trainers of `tokenizers` break ties by hash
# order, which differs between processes; everything here is reproducible instead.


@functools.cache
def _word_pieces(first: tuple[str, ...]) -> dict[str, int]:
    """WordPiece vocabulary: `first`, then characters, then frequent heads and tails."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    pieces, characters = Counter(), set()
    for sentence in SENTENCES:
        normalized = normalizer.normalize_str(sentence)
        for word, _ in splitter.pre_tokenize_str(normalized):
            characters.update(word)
            pieces.update(word[:end] for end in range(2, len(word) + 1))
            pieces.update("##" + word[start:] for start in range(1, len(word) - 1))
    frequent = sorted(pieces, key=lambda piece: (-pieces[piece], piece))[:450]
    ordered = [*first, *sorted(characters), *sorted("##" + c for c in characters)]
    return {piece: i for i, piece in enumerate(dict.fromkeys(ordered + frequent))}


@functools.cache
def _byte_pairs(first: tuple[str, ...]) -> tuple[dict, list[tuple[str, str]]]:
    """Byte-level BPE vocabulary and merges, with `first` as its first tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(first),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    state = json.loads(backend.to_str())["model"]
    return state["vocab"], [tuple(merge) for merge in state["merges"]]


@functools.cache
def _sentence_pieces(lower_case: bool = False) -> bytes:
    """SentencePiece model whose ids 0 to 3 are those of DeBERTa-v2."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([s.lower() if lower_case else s for s in SENTENCES]),
        model_writer=model,
        vocab_size=400,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        unk_piece="[UNK]",
        minloglevel=2,
    )
    return model.getvalue()


def _unigrams(
    first: Sequence[str], last: Sequence[str] = (), *, lower_case: bool = False
) -> list[tuple[str, float]]:
    """Pieces and log-probabilities, between the special tokens `first` and `last`."""
    processor = sentencepiece.SentencePieceProcessor(
        model_proto=_sentence_pieces(lower_case)
    )
    pieces = [
        (processor.id_to_piece(i), processor.get_score(i))
        for i in range(4, processor.get_piece_size())
    ]
    return [(t, 0.0) for t in first] + pieces + [(t, 0.0) for t in last]


def _bert_tokenizer(first=BERT_TOKENS, **kwargs):
    return transformers.BertTokenizer(
        vocab=_word_pieces(first), model_max_length=N_POSITIONS, **kwargs
    )


def _roberta_tokenizer(**kwargs):
    vocab, merges = _byte_pairs(("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges, **kwargs)


def _byte_level_backend(prefix: str, suffix: str, extra: Sequence[str] = ()):
    """Byte-level BPE backend that puts `prefix` and `suffix` around a text."""
    vocab, merges = _byte_pairs(())
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens([prefix, suffix, *extra])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{prefix} $A {suffix}",
        special_tokens=[(t, backend.token_to_id(t)) for t in (prefix, suffix)],
    )
    return backend


# Models.


def _random_model(config, auto_class=AutoModel, scale=WEIGHT_SCALE):
    """Model of `config` whose every trainable parameter is redrawn from seed 0."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = auto_class.from_config(config)
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                # Vectors are biases (zeros) and norm weights (ones): keep their centre.
                centre = parameter if parameter.ndim == 1 else torch.zeros(())
                noise = scale * torch.randn_like(parameter)
                parameter.copy_(centre + noise)
    return model


def _save(directory: Path, config, tokenizer, scale=WEIGHT_SCALE) -> None:
    config.vocab_size = len(tokenizer)
    _random_model(config, scale=scale).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _edit_json(path: Path, **changes) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes, indent=2), encoding="utf-8")


def _edit_weights(directory: Path, edit: Callable[[dict], dict]) -> None:
    path = directory / "model.safetensors"
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})


def _bert_config(**kwargs):
    return transformers.BertConfig(
        **SIZES, max_position_embeddings=N_POSITIONS, **kwargs
    )


def _bert(directory):
    _save(directory, _bert_config(), _bert_tokenizer())


def _distilbert(directory):
    config = transformers.DistilBertConfig(
        dim=32, n_heads=4, n_layers=3, hidden_dim=64, max_position_embeddings=64
    )
    tokenizer = transformers.DistilBertTokenizer(
        vocab=_word_pieces(BERT_TOKENS), model_max_length=N_POSITIONS
    )
    _save(directory, config, tokenizer)


def _roberta_config():
    return transformers.RobertaConfig(
        **SIZES,
        **ROBERTA_IDS,
        max_position_embeddings=OFFSET_POSITIONS,
        type_vocab_size=1,
    )


def _roberta(directory):
    tokenizer = _roberta_tokenizer(model_max_length=N_POSITIONS)
    _save(directory, _roberta_config(), tokenizer)


def _bertweet(directory):
    # BertweetTokenizer.save_vocabulary drops the count column of bpe.codes, and with it
    # every merge; so the two vocabulary files are written by hand.
    ends = "</w>"
    backend = tokenizers.Tokenizer(models.BPE(end_of_word_suffix=ends))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    characters = sorted(set("".join(SENTENCES)) - {" "})
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*characters, *(c + ends for c in characters)],
        end_of_word_suffix=ends,
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    state = json.loads(backend.to_str())["model"]
    tokens = [
        t.removesuffix(ends) if t.endswith(ends) else t + "@@"
        for t in sorted(state["vocab"])
    ]
    vocab_path, merges_path = directory / "vocab.txt", directory / "bpe.codes"
    vocab_path.write_text("".join(f"{t} 1\n" for t in tokens), encoding="utf-8")
    merges = "".join(f"{a} {b} 1\n" for a, b in state["merges"])
    merges_path.write_text(merges, encoding="utf-8")
    tokenizer = transformers.BertweetTokenizer(
        str(vocab_path), str(merges_path), model_max_length=N_POSITIONS
    )
    config = _roberta_config()
    config.tokenizer_class = "BertweetTokenizer"
    _save(directory, config, tokenizer)
    merges_path.write_text(merges, encoding="utf-8")


def _electra(directory):
    config = transformers.ElectraConfig(
        **SIZES, embedding_size=16, max_position_embeddings=N_POSITIONS
    )
    tokenizer = transformers.ElectraTokenizer(
        vocab=_word_pieces(BERT_TOKENS), model_max_length=N_POSITIONS
    )
    _save(directory, config, tokenizer)


def _deberta(directory):
    config = transformers.DebertaConfig(
        **SIZES,
        max_position_embeddings=N_POSITIONS,
        relative_attention=True,
        max_relative_positions=-1,
        position_biased_input=False,
        pos_att_type=["c2p", "p2c"],
    )
    vocab, merges = _byte_pairs(("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"))
    tokenizer = transformers.DebertaTokenizer(
        vocab=vocab, merges=merges, model_max_length=N_POSITIONS
    )
    _save(directory, config, tokenizer)


def _deberta_v2(directory):
    config = transformers.DebertaV2Config(
        **SIZES,
        max_position_embeddings=N_POSITIONS,
        relative_attention=True,
        max_relative_positions=-1,
        position_buckets=8,
        position_biased_input=False,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        conv_kernel_size=3,
        conv_act="gelu",
    )
    # As microsoft/deberta-v3-base: spm.model and no tokenizer.json.
    (directory / "spm.model").write_bytes(_sentence_pieces())
    settings = {"do_lower_case": False, "vocab_type": "spm", "model_max_length": 64}
    text = json.dumps(settings, indent=2)
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
    config.vocab_size = len(transformers.DebertaV2Tokenizer.from_pretrained(directory))
    _random_model(config).save_pretrained(directory)


def _albert(directory):
    config = transformers.AlbertConfig(
        **SIZES,
        embedding_size=16,
        num_hidden_groups=1,
        max_position_embeddings=N_POSITIONS,
    )
    first = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = transformers.AlbertTokenizer(
        vocab=_unigrams(first, lower_case=True), model_max_length=N_POSITIONS
    )
    _save(directory, config, tokenizer)


def _mpnet(directory):
    config = transformers.MPNetConfig(
        **SIZES, **ROBERTA_IDS, max_position_embeddings=OFFSET_POSITIONS
    )
    first = ("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>")
    tokenizer = transformers.MPNetTokenizer(
        vocab=_word_pieces(first), model_max_length=N_POSITIONS
    )
    _save(directory, config, tokenizer)


def _xlm_roberta(directory):
    config = transformers.XLMRobertaConfig(
        **SIZES,
        **ROBERTA_IDS,
        max_position_embeddings=OFFSET_POSITIONS,
        type_vocab_size=1,
    )
    tokenizer = transformers.XLMRobertaTokenizer(
        vocab=_unigrams(["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"]),
        model_max_length=N_POSITIONS,
    )
    _save(directory, config, tokenizer)


def _camembert(directory):
    config = transformers.CamembertConfig(
        **SIZES,
        bos_token_id=5,
        pad_token_id=1,
        eos_token_id=6,
        max_position_embeddings=OFFSET_POSITIONS,
        type_vocab_size=1,
    )
    # The published CamemBERT carries fairseq's four unused ids before its own.
    first = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"]
    tokenizer = transformers.CamembertTokenizer(
        vocab=_unigrams([*first, "<s>", "</s>"], ["<mask>"]),
        model_max_length=N_POSITIONS,
    )
    _save(directory, config, tokenizer)


def _modernbert(directory):
    backend = _byte_level_backend("[CLS]", "[SEP]", ["[UNK]", "[PAD]", "[MASK]"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=128,
    )
    config = transformers.ModernBertConfig(
        **SIZES,
        max_position_embeddings=128,
        local_attention=8,
        global_attn_every_n_layers=2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        cls_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        sep_token_id=tokenizer.sep_token_id,
    )
    _save(directory, config, tokenizer)


def _bert_bin(directory):
    # As SciBERT: a pickled pre-training model (prefix "bert.", heads) and vocab.txt.
    vocab = _word_pieces(BERT_TOKENS)
    config = _bert_config(vocab_size=len(vocab), architectures=["BertForPreTraining"])
    model = _random_model(config, AutoModelForPreTraining)
    config.save_pretrained(directory)
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    lines = "".join(f"{piece}\n" for piece in vocab)
    (directory / "vocab.txt").write_text(lines, encoding="utf-8")


def _ernie(directory):
    config = transformers.ErnieConfig(
        **SIZES, max_position_embeddings=N_POSITIONS, use_task_id=True
    )
    _save(directory, config, _bert_tokenizer())


def _mobilebert(directory):
    config = transformers.MobileBertConfig(
        **SIZES,
        max_position_embeddings=N_POSITIONS,
        embedding_size=16,
        intra_bottleneck_size=16,
    )
    # Without layer norms, the common scale would take the states beyond 1e5.
    _save(directory, config, _bert_tokenizer(), scale=0.18)


def _convbert(directory):
    config = transformers.ConvBertConfig(
        **SIZES,
        max_position_embeddings=N_POSITIONS,
        embedding_size=16,
        conv_kernel_size=3,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    _save(directory, config, _bert_tokenizer())


def _roformer(directory):
    config = transformers.RoFormerConfig(
        **SIZES, embedding_size=16, max_position_embeddings=N_POSITIONS
    )
    # As junnyu/roformer_chinese_char_base; RoFormerTokenizer would need rjieba.
    _save(directory, config, _bert_tokenizer())


def _nomic_bert(directory):
    config = transformers.NomicBertConfig(**SIZES, max_position_embeddings=N_POSITIONS)
    _save(directory, config, _bert_tokenizer())


def _eurobert(directory):
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    # The pad token is the end token, as in the published configuration.
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_backend(begin, end, ["<|mask|>"]),
        bos_token=begin,
        eos_token=end,
        pad_token=end,
        mask_token="<|mask|>",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=N_POSITIONS,
    )
    config = transformers.EuroBertConfig(
        **SIZES,
        max_position_embeddings=N_POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        mask_token_id=tokenizer.mask_token_id,
    )
    _save(directory, config, tokenizer)


def _bert_left_padding(directory):
    _save(directory, _bert_config(), _bert_tokenizer(padding_side="left"))


def _bert_no_cls(directory):
    state = json.loads(_bert_tokenizer().backend_tokenizer.to_str())
    state["post_processor"] = None
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(state)),
        unk_token="[UNK]",
        pad_token="[PAD]",
        model_max_length=N_POSITIONS,
    )
    _save(directory, _bert_config(), tokenizer)


def _bert_pad_id_nonzero(directory):
    tokenizer = _bert_tokenizer(("[UNK]", "[CLS]", "[SEP]", "[MASK]", "[PAD]"))
    _save(directory, _bert_config(pad_token_id=4), tokenizer)


def _bert_truncation_left(directory):
    _save(directory, _bert_config(), _bert_tokenizer(truncation_side="left"))


def _bert_fixed_padding(directory):
    _bert(directory)
    path = str(directory / "tokenizer.json")
    backend = tokenizers.Tokenizer.from_file(path)
    backend.enable_truncation(16)
    backend.enable_padding(length=16, pad_id=0, pad_token="[PAD]")
    backend.save(path)


def _bert_fp16(directory):
    _bert(directory)
    _edit_weights(
        directory, lambda weights: {name: w.half() for name, w in weights.items()}
    )
    _edit_json(directory / "config.json", dtype="float16")


def _bert_relative_key(directory):
    _bert(directory)
    table = WEIGHT_SCALE * torch.ones(2 * N_POSITIONS - 1, 8)
    extra = {
        f"encoder.layer.{k}.attention.self.distance_embedding.weight": table.clone()
        for k in range(3)
    }
    _edit_weights(directory, lambda weights: weights | extra)
    _edit_json(directory / "config.json", position_embedding_type="relative_key")


def _gpt2(directory):
    vocab, merges = _byte_pairs(("<|endoftext|>",))
    tokenizer = transformers.GPT2Tokenizer(
        vocab=vocab, merges=merges, model_max_length=N_POSITIONS
    )
    config = transformers.GPT2Config(
        n_embd=32,
        n_head=4,
        n_layer=3,
        n_positions=N_POSITIONS,
        bos_token_id=0,
        eos_token_id=0,
    )
    _save(directory, config, tokenizer)


def _t5(directory):
    tokenizer = transformers.T5Tokenizer(
        vocab=_unigrams(["<pad>", "</s>", "<unk>"]), model_max_length=N_POSITIONS
    )
    config = transformers.T5Config(
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_heads=4,
        num_layers=3,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    _save(directory, config, tokenizer)


def _without(directory, prefix):
    _bert(directory)
    _edit_weights(
        directory,
        lambda weights: {
            name: w for name, w in weights.items() if not name.startswith(prefix)
        },
    )


def _bert_no_pooler_weights(directory):
    _without(directory, "pooler.")


def _bert_missing_weights(directory):
    _without(directory, "encoder.layer.1.")


def _roberta_no_model_max_length(directory):
    _save(directory, _roberta_config(), _roberta_tokenizer())


ARCHITECTURES: dict[str, Callable[[Path], None]] = {
    "bert": _bert,
    "distilbert": _distilbert,
    "roberta": _roberta,
    "bertweet": _bertweet,
    "electra": _electra,
    "deberta": _deberta,
    "deberta_v2": _deberta_v2,
    "albert": _albert,
    "mpnet": _mpnet,
    "xlm_roberta": _xlm_roberta,
    "camembert": _camembert,
    "modernbert": _modernbert,
    "bert_bin": _bert_bin,
    "ernie": _ernie,
    "mobilebert": _mobilebert,
    "convbert": _convbert,
    "roformer": _roformer,
    "nomic_bert": _nomic_bert,
    "eurobert": _eurobert,
}

VARIANTS: dict[str, Callable[[Path], None]] = {
    "bert_left_padding": _bert_left_padding,
    "bert_no_cls": _bert_no_cls,
    "bert_pad_id_nonzero": _bert_pad_id_nonzero,
    "bert_truncation_left": _bert_truncation_left,
    "bert_fixed_padding": _bert_fixed_padding,
    "bert_fp16": _bert_fp16,
    "bert_relative_key": _bert_relative_key,
    "gpt2": _gpt2,
    "t5": _t5,
    "bert_no_pooler_weights": _bert_no_pooler_weights,
    "bert_missing_weights": _bert_missing_weights,
    "roberta_no_model_max_length": _roberta_no_model_max_length,
}


def build_checkpoint(name: str, directory: Path) -> Path:
    """Write the checkpoint `name` of either dict into `directory`, and return it."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (ARCHITECTURES | VARIANTS)[name](directory)
    return directory


# Sentence-transformers files.

LEGACY_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
MODULE_PATHS = {
    "Transformer": "base.modules.transformer",
    "Pooling": "sentence_transformer.modules.pooling",
    "Dense": "base.modules.dense",
    "Normalize": "base.modules.normalize",
}


def add_sentence_transformers_files(
    directory: Path,
    *,
    pooling: str | tuple[str, ...] = "mean",
    normalize: bool = True,
    max_seq_length: int | None = 32,
    prompts: dict[str, str] | None = None,
    default_prompt_name: str | None = None,
    include_prompt: bool = True,
    do_lower_case: bool = False,
    dense: bool = False,
    new_style: bool = False,
) -> Path:
    """Make the checkpoint in `directory` one of sentence-transformers.

    The legacy style is what releases 2 to 5 wrote and most of the hub holds. With
    `new_style`, the files are those of release 6, which keeps `max_seq_length` in
    tokenizer_config.json and has no place for `do_lower_case`. Legacy files do not
    order a tuple of poolings: it is read as cls, max, mean, mean_sqrt_len.
    """
    directory = Path(directory)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    width = config.get("hidden_size") or config["dim"]
    names = (pooling,) if isinstance(pooling, str) else pooling
    kinds = ["Transformer", "Pooling"]
    kinds += ["Dense"] * dense + ["Normalize"] * normalize
    paths = [f"{i}_{kind}" if i else "" for i, kind in enumerate(kinds)]

    def write(path, content):
        (directory / path).parent.mkdir(exist_ok=True)
        text = json.dumps(content, indent=2)
        (directory / path).write_text(text, encoding="utf-8")

    middle = MODULE_PATHS if new_style else dict.fromkeys(MODULE_PATHS, "models")
    write(
        "modules.json",
        [
            {
                "idx": i,
                "name": str(i),
                "path": path,
                "type": f"sentence_transformers.{middle[kind]}.{kind}",
            }
            for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
        ],
    )
    versions = {"transformers": "5.23.0", "pytorch": "2.13.0+cpu"}
    settings = {
        "__version__": versions
        | {"sentence_transformers": "6.2.0" if new_style else "3.0.1"},
        "prompts": prompts or {},
        "default_prompt_name": default_prompt_name,
        "similarity_fn_name": "cosine",
    }
    if new_style:
        settings["model_type"] = "SentenceTransformer"
    write("config_sentence_transformers.json", settings)
    if new_style:
        modes = [
            "mean_sqrt_len_tokens" if name == "mean_sqrt_len" else name
            for name in names
        ]
        pooling_config = {
            "embedding_dimension": width,
            "pooling_mode": modes[0] if len(modes) == 1 else modes,
        }
        text_config = {"method": "forward", "method_output_name": "last_hidden_state"}
        transformer_config = {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": text_config},
            "module_output_name": "token_embeddings",
        }
        if max_seq_length is not None:
            path = directory / "tokenizer_config.json"
            _edit_json(path, model_max_length=max_seq_length)
    else:
        pooling_config = {"word_embedding_dimension": width} | {
            key: name in names for name, key in LEGACY_POOLING_KEYS.items()
        }
        transformer_config = {
            "max_seq_length": max_seq_length,
            "do_lower_case": do_lower_case,
        }
    write("sentence_bert_config.json", transformer_config)
    pooling_config["include_prompt"] = include_prompt
    write("1_Pooling/config.json", pooling_config)
    if dense:
        generator = torch.Generator().manual_seed(0)
        n_in, n_out = width * len(names), 16
        activation = "torch.nn.modules.activation.Tanh"
        dense_config = {
            "in_features": n_in,
            "out_features": n_out,
            "bias": True,
            "activation_function": activation,
        }
        write("2_Dense/config.json", dense_config)
        weights = {
            "linear.weight": torch.randn(n_out, n_in, generator=generator),
            "linear.bias": torch.randn(n_out, generator=generator),
        }
        save_file(weights, directory / "2_Dense" / "model.safetensors")
    if normalize and new_style:
        key = "sentence_embedding"
        content = {"module_input_name": key, "module_output_name": key}
        write(f"{paths[-1]}/config.json", content)
    return directory


# The reference.


@functools.lru_cache(maxsize=64)
def _load(directory: str, dtype: torch.dtype):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(
        directory, attn_implementation="eager", dtype=dtype
    )
    return tokenizer, model


def naive_features(
    directory: Path,
    texts: Sequence[str],
    *,
    layer: int,
    pooling: str,
    special_tokens: bool = True,
    max_length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> np.ndarray:
    """Pool `hidden_states[layer]` text by text: no batch, no padding, no shortcut.

    The forward pass runs in `dtype`, the pooling in float64. `max_length=None` is the
    tokenizer's own limit. A directory is read once: do not change it afterwards.
    """
    tokenizer, model = _load(str(directory), dtype)
    last = model.config.num_hidden_layers
    layer = range(last + 1)[layer]
    if {"attention": layer == 0, "pooler": layer < last}.get(pooling):
        raise ValueError(f"layer {layer} has no {pooling!r} pooling")
    rows = []
    for text in texts:
        inputs = tokenizer(
            text,
            truncation=True,
            max_length=max_length,
            padding=False,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        special = inputs.pop("special_tokens_mask")[0] == 1  # (n_tokens,)
        counts_all = special_tokens or pooling in ("cls", "pooler")
        counted = torch.ones_like(special) if counts_all else ~special
        if not counted.any():
            rows.append(torch.zeros(model.config.hidden_size, dtype=torch.float64))
            continue
        with torch.inference_mode():
            output = model(**inputs, output_hidden_states=True, output_attentions=True)
        states = output.hidden_states[layer][0].double()  # (n_tokens, width)
        kept = states[counted]
        if pooling == "cls":
            row = states[0]
        elif pooling == "pooler":
            row = output.pooler_output[0].double()
        elif pooling == "mean":
            row = kept.mean(dim=0)
        elif pooling == "max":
            row = kept.amax(dim=0)
        elif pooling == "mean_sqrt_len":
            row = kept.sum(dim=0) / len(kept) ** 0.5
        elif pooling == "attention":
            received = output.attentions[layer - 1][0].double().mean(dim=(0, 1))
            weights = received[counted] / received[counted].sum()
            row = weights @ kept
        else:
            raise ValueError(f"unknown pooling {pooling!r}")
        rows.append(row)
    return torch.stack(rows).numpy()
