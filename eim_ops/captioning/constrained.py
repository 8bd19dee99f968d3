"""Decoding that can only give JSON of a schema, for transformers' `generate`, by llguidance."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerFast


class JsonConstraint(LogitsProcessor):
    """Masks, row by row, every token that would leave the schema. Serves one call of `generate`, without beams."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, schema: Mapping[str, Any], prompt_length: int) -> None:
        from llguidance import LLMatcher

        self._tokens = _tokens_of(tokenizer)
        self._grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_flexible": False})
        self._seen = prompt_length
        self._matchers: list[Any] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) with -inf where a token is not allowed."""
        from llguidance import LLMatcher

        if not self._matchers:
            self._matchers = [LLMatcher(self._tokens, self._grammar) for _ in input_ids]
        for token in input_ids[:, self._seen :].T.tolist():
            for matcher, one in zip(self._matchers, token, strict=True):
                if not matcher.is_stopped():
                    matcher.consume_token(one)
        self._seen = input_ids.shape[1]
        allowed = torch.zeros(scores.shape, dtype=torch.bool)
        for row, matcher in enumerate(self._matchers):
            if matcher.is_error():
                raise ValueError(f"constrained decoding: {matcher.get_error()}")
            # One byte for each token; an ended row allows its end token alone. Padded logits stay out.
            bias = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8)[: scores.shape[1]]
            allowed[row, : len(bias)] = bias > 0
        return scores.masked_fill(~allowed.to(scores.device), float("-inf"))


@lru_cache(maxsize=2)
def _tokens_of(tokenizer: PreTrainedTokenizerFast) -> Any:
    """llguidance's view of a vocabulary, which takes a second to make."""
    from llguidance.hf import from_tokenizer

    return from_tokenizer(tokenizer)
