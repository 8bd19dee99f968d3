"""Where the prompts of a row come from: the row itself, a template, the cache, or the captioner; and their check."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eim_ops.captioning.minimal_pair import MAX_CHANGED_WORDS, check_minimal_pair
from eim_ops.captioning.template import fill_template
from pipeline.asked_edits import AskedEdit, edits_from_json
from pipeline.caption_cache import CaptionCache, Captions, Request
from pipeline.captioner_spec import TemplateSpec
from pipeline.recipe import Recipe
from pipeline.storage import in_threads
from pipeline.work import BLANK_RESULT, Row, error_on, source_image

if TYPE_CHECKING:
    from eim_ops.captioning.base import Captioner

Prompt = str | Exception


class NotMinimalPair(ValueError):
    """A target prompt that is not its source prompt but for one short edit."""


class CaptionWriter:
    """Fills rows in place. `each` calls in batches and keeps an error with its own item."""

    def __init__(
        self,
        captioner: "Captioner | None",
        recipe: Recipe,
        cache: CaptionCache | None,
        each: Callable[[Any, Sequence[Any]], list[Any]],
    ) -> None:
        self._captioner, self._cache, self._each = captioner, cache if captioner is not None else None, each
        self._template = recipe.captioner if isinstance(recipe.captioner, TemplateSpec) else None
        self._bound = recipe.max_changed_words

    def fill(self, rows: Sequence[Row]) -> None:
        """Source prompts and results; a row without a source prompt gets its error."""
        cached = self._read(rows)
        given = {id(row) for row in rows if row["source_prompt"] is not None}
        self._describe(rows, cached)
        good = [row for row in rows if row["error_stage"] is None]
        asked = {id(row): edits_from_json(row["edits"]) for row in good}
        written = self._written(good, asked, cached)
        for row in good:
            row["results"] = [self._result(row, edit, written) for edit in asked[id(row)]]
        self._keep(good, given, asked, written, cached)

    def _read(self, rows: Sequence[Row]) -> dict[str, Captions]:
        if self._cache is None:
            return {}
        names = list(dict.fromkeys(row["source_sha256"] for row in rows))
        return dict(zip(names, in_threads(self._cache.read, names), strict=True))

    def _describe(self, rows: Sequence[Row], cached: dict[str, Captions]) -> None:
        bare = [row for row in rows if row["source_prompt"] is None]
        for row in bare:
            row["source_prompt"] = cached.get(row["source_sha256"], Captions()).source_prompt
        bare = [row for row in bare if row["source_prompt"] is None]
        for row, prompt in zip(bare, self._described(bare), strict=True):
            row.update(error_on("caption", prompt) if isinstance(prompt, Exception) else {"source_prompt": prompt})

    def _described(self, rows: Sequence[Row]) -> list[Prompt]:
        if self._template is not None:
            return [_filled(self._template.source, row) for row in rows]
        if self._captioner is None:
            return [ValueError("captioner is 'manifest', but this row has no source_prompt")] * len(rows)
        return self._each(self._captioner.describe, [source_image(row) for row in rows])

    def _written(
        self, rows: Sequence[Row], asked: dict[int, list[AskedEdit]], cached: dict[str, Captions]
    ) -> dict[Request, Prompt]:
        """The captioner's target prompts, each (source prompt, request) asked for once."""
        wanted: dict[Request, Prompt | None] = {}
        for row in rows:
            known = cached.get(row["source_sha256"], Captions()).targets
            for edit in asked[id(row)]:
                for request, given in zip(edit.requests, edit.given_prompts, strict=True):
                    pair = (row["source_prompt"], request)
                    if given is None and wanted.get(pair) is None:
                        wanted[pair] = known.get(pair)
        fresh = [pair for pair, prompt in wanted.items() if prompt is None]
        return {**{pair: prompt for pair, prompt in wanted.items() if prompt is not None}, **self._rewritten(fresh)}

    def _rewritten(self, pairs: Sequence[Request]) -> dict[Request, Prompt]:
        captioner = self._captioner
        if captioner is None:
            return {}

        def rewrite(chunk: Sequence[Request]) -> list[str]:
            return captioner.rewrite([prompt for prompt, _ in chunk], [request for _, request in chunk])

        answers = dict(zip(pairs, self._each(rewrite, pairs), strict=True))
        return {**answers, **self._mended(captioner, answers)}

    def _mended(self, captioner: "Captioner", answers: Mapping[Request, Prompt]) -> dict[Request, Prompt]:
        """Of the answers that are no minimal pairs with their sources: other ones, else why not."""
        given = {pair: answer for pair, answer in answers.items() if isinstance(answer, str)}
        problems = {pair: self._problem(pair[0], answer) for pair, answer in given.items()}
        refused = [(pair, given[pair], str(problem)) for pair, problem in problems.items() if problem is not None]

        def rewrite_again(chunk: Sequence[tuple[Request, str, str]]) -> list[str]:
            sources, requests = [pair[0] for pair, _, _ in chunk], [pair[1] for pair, _, _ in chunk]
            return captioner.rewrite_again(
                sources, requests, [answer for _, answer, _ in chunk], [problem for _, _, problem in chunk]
            )

        seconds = self._each(rewrite_again, refused)
        return {
            pair: second if isinstance(second, Exception) else self._problem(pair[0], second) or second
            for (pair, _, _), second in zip(refused, seconds, strict=True)
        }

    def _problem(self, source: str, target: str) -> NotMinimalPair | None:
        try:
            check_minimal_pair(source, target, self._bound or MAX_CHANGED_WORDS)
        except ValueError as error:
            return NotMinimalPair(str(error))
        return None

    def _result(self, row: Row, edit: AskedEdit, written: dict[Request, Prompt]) -> Row:
        prompts = []
        for place, request in enumerate(edit.requests):
            prompt = self._target(row, edit, place, written.get((row["source_prompt"], request)))
            if isinstance(prompt, Exception):
                return {**BLANK_RESULT, "edit_id": edit.edit_id, **error_on("caption", prompt)}
            prompts.append(prompt)
        return {**BLANK_RESULT, "edit_id": edit.edit_id, "target_prompts": prompts}

    def _target(self, row: Row, edit: AskedEdit, place: int, written: Prompt | None) -> Prompt:
        """The user's own words are held to the same bound, unless the recipe sets it to null."""
        prompt: Prompt | None = edit.given_prompts[place]
        if prompt is None and written is not None:
            return written
        if prompt is None and self._template is not None:
            names = {"attribute": edit.attributes, "target": edit.targets, "request": edit.requests}
            prompt = _filled(self._template.target, row, {name: value[place] for name, value in names.items()})
        if prompt is None:
            return ValueError("captioner is 'manifest', but this row has no target prompt for the attribute")
        if isinstance(prompt, Exception) or self._bound is None:
            return prompt
        return self._problem(row["source_prompt"], prompt) or prompt

    def _keep(
        self,
        rows: Sequence[Row],
        given: set[int],
        asked: dict[int, list[AskedEdit]],
        written: dict[Request, Prompt],
        cached: dict[str, Captions],
    ) -> None:
        cache = self._cache
        if cache is None:
            return
        changed: dict[str, Captions] = {}
        for row in rows:
            name = row["source_sha256"]
            before = changed.get(name) or cached[name]
            targets = dict(before.targets)
            for request in (request for edit in asked[id(row)] for request in edit.requests):
                prompt = written.get((row["source_prompt"], request))
                if isinstance(prompt, str):
                    targets[row["source_prompt"], request] = prompt
            # A prompt that a manifest gives for one row is not the captioner's for the image.
            own = before.source_prompt or (None if id(row) in given else row["source_prompt"])
            if (own, targets) != (before.source_prompt, before.targets):
                changed[name] = Captions(own, targets)
        in_threads(lambda item: cache.write(*item), list(changed.items()))


def _filled(template: str, row: Row, more: dict[str, str] | None = None) -> Prompt:
    try:
        return fill_template(template, {**json.loads(row["fields"] or "{}"), **(more or {})})
    except ValueError as error:
        return error
