"""The word-level tokenizer of the faces vocabulary, for mini-dit's text encoders."""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from eim_ops.faces.grammar import MAX_WORDS, VOCABULARY

PAD, BOS, UNK, EOS = "<pad>", "<bos>", "<unk>", "<eos>"
SPECIALS: tuple[str, ...] = (PAD, BOS, UNK, EOS)
"""Specials by id. `<eos>` must not be id 2: CLIPTextModel with `eos_token_id == 2` pools at the largest id."""


def build_tokenizer(max_length: int = 32) -> PreTrainedTokenizerFast:
    """One token a word, lower-cased, commas dropped, `<bos> words <eos>`, padded on the right.

    Raises ValueError where `max_length` would cut a full caption.
    """
    if max_length < MAX_WORDS + 2:
        raise ValueError(f"max_length {max_length} cuts a full caption; give at least {MAX_WORDS + 2}")
    return word_level(VOCABULARY, max_length, keep_commas=False)


def word_level(words: Sequence[str], max_length: int, keep_commas: bool) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of `words` after the four specials; with `keep_commas`, a comma is a word of its own."""
    vocabulary = {token: index for index, token in enumerate((*SPECIALS, *words))}
    core = Tokenizer(WordLevel(vocabulary, unk_token=UNK))
    spaced = normalizers.Replace(Regex(","), " , " if keep_commas else " ")
    core.normalizer = normalizers.Sequence([normalizers.Lowercase(), spaced])
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, vocabulary[BOS]), (EOS, vocabulary[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        unk_token=UNK,
        eos_token=EOS,
        model_max_length=max_length,
        padding_side="right",
    )
