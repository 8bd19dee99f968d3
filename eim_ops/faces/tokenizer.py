"""Word-level tokenizers of the faces vocabulary: mini-dit's, which drops commas, and mini-vlm's, which writes them."""

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from eim_ops.faces.grammar import MAX_WORDS, VOCABULARY

PAD, BOS, UNK, EOS = "<pad>", "<bos>", "<unk>", "<eos>"
SPECIALS: tuple[str, ...] = (PAD, BOS, UNK, EOS)
"""Specials by id. `<eos>` must not be id 2: CLIPTextModel with `eos_token_id == 2` pools at the largest id."""

IMAGE = "<image>"
CHAT_WORDS: tuple[str, ...] = (",", ";", ":", "describe")
"""What mini-vlm says and is told besides the vocabulary of prompts and requests."""


def build_tokenizer(max_length: int = 32) -> PreTrainedTokenizerFast:
    """Text encoder tokenizer: one token a word, lower-cased, `<bos> words <eos>`, padded on the right.

    Raises ValueError where `max_length` would cut a full caption.
    """
    if max_length < MAX_WORDS + 2:
        raise ValueError(f"max_length {max_length} cuts a full caption; give at least {MAX_WORDS + 2}")
    core = _core((*SPECIALS, *VOCABULARY))
    core.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(",", " ")])
    core.post_processor = TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, SPECIALS.index(BOS)), (EOS, SPECIALS.index(EOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=max_length, padding_side="right", **_NAMES)


def build_chat_tokenizer(max_length: int = 256) -> PreTrainedTokenizerFast:
    """Language model tokenizer: punctuation is tokens, the chat template adds the rest, padded on the left."""
    core = _core((*SPECIALS, IMAGE, *CHAT_WORDS, *VOCABULARY))
    core.normalizer = normalizers.Lowercase()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=max_length,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE},
        **_NAMES,
    )


_NAMES = {"pad_token": PAD, "bos_token": BOS, "unk_token": UNK, "eos_token": EOS}


def _core(tokens: tuple[str, ...]) -> Tokenizer:
    core = Tokenizer(WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return core
