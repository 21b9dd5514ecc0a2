"""Images from Google: Gemini image models by generateContent, Imagen by ``:predict`` (wire 6.9).

Both answer base64 only. Gemini draws one image a call, so n images are n calls side by side
(`Outbound.repeat`); Imagen draws up to four. Sources: google-genai 3.4 (``types.ImageConfig``, the
Vertex converter for ``:predict``), Vercel's AI SDK, LiteLLM's size map.
"""

from __future__ import annotations

import math
import re
from typing import Any

import orjson

from sellapi.domain.pricing import class_of_size
from sellapi.domain.quirks import GeminiQuirks
from sellapi.domain.usage import TOKEN_BUCKETS, Usage
from sellapi.errors import InvalidRequest
from sellapi.upstream.adapter import Answer, Job, Outbound, UpstreamFailure
from sellapi.upstream.gemini_reply import (
    FILTERED,
    error_failure,
    garbage,
    gemini_usage,
    parse_object,
)
from sellapi.upstream.gemini_request import model_path
from sellapi.upstream.openai_shape import JsonObject, field_value, refuse

__all__ = ["decode_images", "encode_images"]

IMAGES_MAX = 10
"""Most images one request may ask for, as at OpenAI."""
PREDICT_MAX = 4
"""Most images one ``:predict`` draws."""
_SIZE = re.compile(r"([1-9][0-9]{1,4})[xX]([1-9][0-9]{1,4})", re.ASCII)
_RATIO_TOLERANCE = math.log(1.2)
"""How far a wanted shape may be from the nearest one a model draws."""
_FORMATS = {"png": "image/png", "jpeg": "image/jpeg", "jpg": "image/jpeg"}
_FORMAT_OF = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}

# --- encode request


def encode_images(job: Job) -> Outbound:
    """The call or calls for an images request; raises `InvalidRequest` naming the field."""
    quirks = job.quirks.gemini
    prompt = field_value(job, "prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise refuse("'prompt' must be a text that says what to draw.", "prompt")
    if not 1 <= job.n <= IMAGES_MAX:
        raise refuse(f"'n' must be between 1 and {IMAGES_MAX}.", "n")
    if field_value(job, "background") == "transparent":
        raise refuse("This model draws no transparent background.", "background")
    ratio, size_class = _shape(field_value(job, "size"), quirks)
    mime = _format(field_value(job, "output_format"))
    if quirks.predict:
        return _encode_predict(job, prompt, ratio, size_class, mime)
    return _encode_generate(job, prompt, ratio, size_class)


def _encode_generate(job: Job, prompt: str, ratio: str | None, size_class: str | None) -> Outbound:
    config: JsonObject = {"responseModalities": ["IMAGE"]}
    image = {"aspectRatio": ratio, "imageSize": size_class}
    image = {name: value for name, value in image.items() if value is not None}
    if image:
        config["imageConfig"] = image
    body = {
        "contents": [{"role": "user", "parts": [{"text": prompt}]}],
        "generationConfig": config,
        "store": False,
    }
    path = model_path(job.upstream_id, "generateContent")
    return Outbound(path, orjson.dumps(body), stream=False, repeat=job.n)


def _encode_predict(
    job: Job, prompt: str, ratio: str | None, size_class: str | None, mime: str | None
) -> Outbound:
    """All calls have one body, so each draws the same number: n's largest divisor up to four."""
    per_call = next(count for count in range(PREDICT_MAX, 0, -1) if job.n % count == 0)
    parameters: JsonObject = {"sampleCount": per_call}
    if ratio is not None:
        parameters["aspectRatio"] = ratio
    if size_class is not None:
        parameters["sampleImageSize"] = size_class
    if mime is not None:
        parameters["outputOptions"] = {"mimeType": mime}
    body = {"instances": [{"prompt": prompt}], "parameters": parameters}
    path = model_path(job.upstream_id, "predict")
    return Outbound(path, orjson.dumps(body), stream=False, repeat=job.n // per_call)


def _format(value: Any) -> str | None:
    """The wanted type of file; what Gemini delivers is told in the answer, it cannot be chosen."""
    if value is None:
        return None
    mime = _FORMATS.get(value) if isinstance(value, str) else None
    if mime is None:
        raise refuse("This model draws 'png' or 'jpeg' only.", "output_format")
    return mime


def _shape(size: Any, quirks: GeminiQuirks) -> tuple[str | None, str | None]:
    """(aspect ratio, size class) for OpenAI's ``size``; None leaves the choice to the model.

    The nearest ratio the model draws; the size class is stated from 2K on (6.9's map).
    """
    if size is None or size == "auto":
        return None, None
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None:
        raise refuse("'size' must be 'auto' or WIDTHxHEIGHT, as 1024x1024.", "size")
    width, height = int(match[1]), int(match[2])
    ratio = min(quirks.aspect_ratios, key=lambda name: _distance(name, width, height))
    if _distance(ratio, width, height) > _RATIO_TOLERANCE:
        raise refuse(f"This model draws the shapes {', '.join(quirks.aspect_ratios)} only.", "size")
    drawn = class_of_size(f"{width}x{height}")
    if drawn == "1K":
        return ratio, None
    if drawn not in quirks.image_sizes:
        raise refuse(f"This model does not draw images as large as {size}.", "size")
    return ratio, drawn


def _distance(ratio: str, width: int, height: int) -> float:
    wide, _, high = ratio.partition(":")
    return abs(math.log(width / height * int(high) / int(wide)))


# --- decode reply


class _Gathered:
    """What several replies brought: images as (type, base64), usages, why some are missing."""

    def __init__(self) -> None:
        self.images: list[tuple[str, str]] = []
        self.prompts: list[str | None] = []
        self.usages: list[Usage] = []
        self.untold = 0
        """Replies with an image but without usage."""
        self.reasons: list[str] = []
        self.failures: list[UpstreamFailure] = []
        self.skipped = 0

    def add(self, mime: str, data: str, prompt: str | None = None) -> None:
        self.images.append((mime, data.translate(_STANDARD)))
        self.prompts.append(prompt)


_STANDARD = str.maketrans("-_", "+/")
"""Base64 may come in the URL-safe alphabet; clients expect the standard one."""


def decode_images(job: Job, bodies: list[bytes]) -> Answer:
    """One images answer out of all replies: k of n images, usages added.

    Raises `UpstreamFailure` when there is no image at all: with a 400 (content_policy_violation)
    when they were filtered, else with what the provider reported.
    """
    found = _Gathered()
    for body in bodies:
        try:
            reply = parse_object(body)
            if "error" in reply:
                raise error_failure(reply["error"], None)
        except UpstreamFailure as failure:
            found.failures.append(failure)
            continue
        if job.quirks.gemini.predict:
            _read_predictions(reply, found)
        else:
            _read_candidates(reply, found)
    del found.images[job.n :]
    if not found.images:
        raise _nothing(found)
    usage = _total(found, per_image=job.quirks.gemini.predict)
    return Answer(
        body=_answer_body(job, found, usage),
        usage=usage,
        images=len(found.images),
        skipped=found.skipped,
    )


def _read_predictions(reply: JsonObject, found: _Gathered) -> None:
    predictions = reply.get("predictions")
    for item in predictions if isinstance(predictions, list) else ():
        if not isinstance(item, dict):
            found.skipped += 1
            continue
        data = item.get("bytesBase64Encoded")
        if isinstance(data, str) and data:
            prompt = item.get("prompt")
            mime = str(item.get("mimeType") or "image/png")
            found.add(mime, data, prompt if isinstance(prompt, str) and prompt else None)
        else:
            found.reasons.append(str(item.get("raiFilteredReason") or "filtered"))
    if not predictions:
        found.reasons.append("filtered")  # filtered images may simply be missing


def _read_candidates(reply: JsonObject, found: _Gathered) -> None:
    usage = gemini_usage(reply.get("usageMetadata"))
    if usage is not None:
        found.usages.append(usage)
    before = len(found.images)
    feedback = reply.get("promptFeedback")
    if isinstance(feedback, dict) and feedback.get("blockReason"):
        found.reasons.append(str(feedback["blockReason"]))
    candidates = reply.get("candidates")
    for candidate in candidates if isinstance(candidates, list) else ():
        if isinstance(candidate, dict):
            _read_candidate(candidate, found)
    found.untold += usage is None and len(found.images) > before
    if not candidates and not found.reasons:
        found.failures.append(garbage())


def _read_candidate(candidate: JsonObject, found: _Gathered) -> None:
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    before = len(found.images)
    for part in parts if isinstance(parts, list) else ():
        inline = part.get("inlineData") if isinstance(part, dict) else None
        if not isinstance(inline, dict) or part.get("thought") is True:
            continue  # words beside the image, or a sketch made while thinking
        data, mime = inline.get("data"), str(inline.get("mimeType") or "image/png")
        if isinstance(data, str) and data and mime.startswith("image/"):
            found.add(mime, data)
        else:
            found.skipped += 1
    if len(found.images) == before:
        reason = candidate.get("finishReason")
        found.reasons.append(
            reason if isinstance(reason, str) and reason in FILTERED else "NO_IMAGE"
        )


def _nothing(found: _Gathered) -> UpstreamFailure:
    if not found.reasons:
        return found.failures[0] if found.failures else garbage()
    return UpstreamFailure(
        InvalidRequest(
            "The provider drew no image for this prompt: its safety system filtered it or found "
            "nothing to draw. Change the prompt.",
            param="prompt",
            code="content_policy_violation",
        ),
        reason="filtered",
        retryable=False,
        status=400,
    )


def _total(found: _Gathered, *, per_image: bool) -> Usage | None:
    """The replies' usages added up; None when a model that reports usage reported none."""
    images = len(found.images)
    if not found.usages:
        return Usage(images=images) if per_image else None
    sums = {name: sum(getattr(usage, name) for usage in found.usages) for name in TOKEN_BUCKETS}
    reasoning = sum(usage.reasoning for usage in found.usages)
    if not sums["image_output"]:
        # No modality was told, so all but thoughts is taken for the images: they are most of it.
        sums["image_output"], sums["output"] = sums["output"] - reasoning, reasoning
    if found.untold:
        # Each call asks for the same: what a reply did not report counts as the dearest other one.
        most = max(found.usages, key=lambda usage: usage.total_output)
        drawn = most.image_output or most.output - most.reasoning
        sums["input"] += found.untold * most.total_input
        sums["image_output"] += found.untold * drawn
    raws = [usage.raw for usage in found.usages]
    raw = raws[0] if len(raws) == 1 else b"[" + b",".join(raws) + b"]"
    return Usage(**sums, images=images, reasoning=reasoning, estimated=bool(found.untold), raw=raw)


def _answer_body(job: Job, found: _Gathered, usage: Usage | None) -> bytes:
    data: list[JsonObject] = []
    for (_, image), prompt in zip(found.images, found.prompts, strict=False):
        data.append({"b64_json": image} | ({"revised_prompt": prompt} if prompt else {}))
    body: JsonObject = {"created": job.created, "data": data}
    mime = found.images[0][0].partition(";")[0].strip().lower()
    if mime in _FORMAT_OF:
        body["output_format"] = _FORMAT_OF[mime]
    if usage is not None and usage.total_input + usage.total_output:
        body["usage"] = {
            "input_tokens": usage.total_input,
            "input_tokens_details": {
                "text_tokens": usage.total_input - usage.image_input,
                "image_tokens": usage.image_input,
            },
            "output_tokens": usage.total_output,
            "total_tokens": usage.total_input + usage.total_output,
        }
    return orjson.dumps(body)
