"""Messages of OpenAI as Gemini's ``contents`` (wire notes 6.2, 6.6, 6.7).

What Gemini demands of a conversation: it begins with a user turn, roles alternate, a step's
functionCalls are followed at once by all of their functionResponses, and the step's first call
carries its thought signature. Google's REST shapes as google-genai 3.4 types them.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from bisect import bisect_left
from collections import Counter
from urllib.parse import urlsplit

from sellapi.upstream.adapter import Job
from sellapi.upstream.gemini_signatures import (
    LAST_RESORT,
    SignatureStore,
    bare_id,
    signature_of,
)
from sellapi.upstream.openai_shape import (
    AudioPart,
    Chat,
    FilePart,
    ImagePart,
    JsonObject,
    Message,
    Part,
    TextPart,
    ToolCall,
    exact_loads,
    refuse,
)

__all__ = ["Contents", "media_urls_of", "write_contents"]

PLACEHOLDER = "Begin."
"""A user turn where a conversation has none: Gemini wants one in front."""

_FILES_API = "generativelanguage.googleapis.com"
_IMAGE_TYPES = frozenset(
    ("image/png", "image/jpeg", "image/webp", "image/gif", "image/heic", "image/heif")
)
_AUDIO_TYPES = {
    "wav": "audio/wav",
    "mp3": "audio/mp3",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "aiff": "audio/aiff",
}
_AUDIO_ALIASES = {
    "audio/mpeg": "audio/mp3",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/x-aiff": "audio/aiff",
}
"""Types as Google writes them, by what else they are called."""
_TEXT_TYPES = ("application/json", "application/xml", "application/x-yaml", "application/yaml")
_EXTENSIONS = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "heic": "image/heic",
    "heif": "image/heif",
}


class Contents:
    """Turns as they are gathered: ``turns`` alternate, ``system`` holds the instruction's texts."""

    __slots__ = ("system", "turns")

    def __init__(self) -> None:
        self.system: list[JsonObject] = []
        self.turns: list[JsonObject] = []

    def add(self, role: str, parts: list[JsonObject]) -> None:
        """Append parts, joining them to the last turn when it has the same role."""
        if not parts:
            return
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["parts"].extend(parts)
        else:
            self.turns.append({"role": role, "parts": parts})


def write_contents(job: Job, chat: Chat, signatures: SignatureStore) -> Contents:
    """The whole conversation; raises `InvalidRequest` naming what cannot be sent."""
    answers = _match_answers(chat.messages)
    found = Contents()
    for index, message in enumerate(chat.messages):
        if message.role == "system":
            found.system.extend(_system_parts(message))
        elif message.role == "user":
            found.add("user", [p for part in message.parts for p in _part(job, part)])
        elif message.role == "assistant":
            found.add("model", _model_parts(job, message, signatures))
            found.add("user", _responses(job, index, message, answers))
    if not job.quirks.gemini.system_instruction:
        _system_as_text(found)
    if not found.turns or found.turns[0]["role"] == "model":
        found.turns.insert(0, {"role": "user", "parts": [{"text": PLACEHOLDER}]})
    if job.quirks.gemini.signatures:
        _mend_signatures(found.turns)
    return found


def _system_parts(message: Message) -> list[JsonObject]:
    texts: list[JsonObject] = []
    for part in message.parts:
        if not isinstance(part, TextPart):
            raise refuse("System messages take text only.", part.param)
        if part.text:
            texts.append({"text": part.text})
    return texts


def _system_as_text(found: Contents) -> None:
    """For models that refuse systemInstruction: its text goes in front of the first user turn."""
    system, found.system = found.system, []
    if found.turns and found.turns[0]["role"] == "user":
        found.turns[0]["parts"][:0] = system
    elif system:
        found.turns.insert(0, {"role": "user", "parts": system})


def _mend_signatures(turns: list[JsonObject]) -> None:
    """Give the last resort to each step's first call that lost its signature.

    Only steps since the last real user turn are checked by Google (wire notes 6.6). A turn that
    holds function responses *and* a user's text may or may not count as one, so it does not here:
    one signature too many is harmless, one too few is a 400.
    """
    for turn in reversed(turns):
        parts: list[JsonObject] = turn["parts"]
        if turn["role"] == "user":
            if not any("functionResponse" in part for part in parts):
                return
            continue
        first = next((part for part in parts if "functionCall" in part), None)
        if first is not None:
            first.setdefault("thoughtSignature", LAST_RESORT)


# Tool calls and their results


_Answers = dict[tuple[int, int], Message]


def _match_answers(messages: list[Message]) -> _Answers:
    """Which tool message answers which call, by (message, call) position.

    Results may come in any order and after other messages. Ids may repeat over a conversation: the
    latest message that made the call before the result counts, else the first after it, and within
    a message one call after the other. Of two results for one call the later counts. A result that
    belongs to no call is refused, as OpenAI does.
    """
    calls: dict[str, list[tuple[int, int]]] = {}
    for index, message in enumerate(messages):
        for number, call in enumerate(message.tool_calls):
            calls.setdefault(bare_id(call.id), []).append((index, number))
    answers: _Answers = {}
    told: Counter[tuple[str, int]] = Counter()
    for index, message in enumerate(messages):
        if message.role != "tool":
            continue
        key = bare_id(message.tool_call_id)
        places = calls.get(key)
        if not places:
            raise refuse(
                "No 'tool_calls' before this tool message has its 'tool_call_id'.",
                f"{message.param}.tool_call_id",
            )
        caller = places[max(0, bisect_left(places, (index, 0)) - 1)][0]
        first, end = bisect_left(places, (caller, 0)), bisect_left(places, (caller + 1, 0))
        answers[places[min(first + told[key, caller], end - 1)]] = message
        told[key, caller] += 1
    return answers


def _model_parts(job: Job, message: Message, signatures: SignatureStore) -> list[JsonObject]:
    quirks = job.quirks.gemini
    parts = [p for part in message.parts for p in _part(job, part)]
    signature = signature_of(message.raw, job.upstream_id) if quirks.echo_signatures else None
    if signature is not None:
        if not parts or "text" not in parts[-1]:
            parts.append({"text": ""})
        parts[-1]["thoughtSignature"] = signature
    for call in message.tool_calls:
        body: JsonObject = {"name": call.name, "args": call.input}
        if quirks.call_ids:
            body["id"] = bare_id(call.id)
        part: JsonObject = {"functionCall": body}
        if quirks.echo_signatures:
            signature = _call_signature(job, call, signatures)
            if signature is not None:
                part["thoughtSignature"] = signature
        parts.append(part)
    return parts


def _call_signature(job: Job, call: ToolCall, signatures: SignatureStore) -> str | None:
    """What the client brought back, else what we remember; None when another model signed it."""
    known = signatures.get(job.account_tag, bare_id(call.id))
    if known is not None and known[0] != job.upstream_id:
        return None
    return signature_of(call.raw, job.upstream_id) or (known[1] if known else None)


def _responses(job: Job, index: int, message: Message, answers: _Answers) -> list[JsonObject]:
    """All functionResponses of one step, in the order of its calls; lost ones are made up."""
    parts: list[JsonObject] = []
    media: list[JsonObject] = []
    for number, call in enumerate(message.tool_calls):
        answer = answers.get((index, number))
        body: JsonObject = {"name": call.name, "response": _response(answer)}
        if job.quirks.gemini.call_ids:
            body["id"] = bare_id(call.id)
        parts.append({"functionResponse": body})
        if answer is not None:
            for part in answer.parts:
                if not isinstance(part, TextPart):
                    media.extend(_part(job, part))
    return parts + media


def _response(answer: Message | None) -> JsonObject:
    """The response object: JSON-object text as it is, any other text under ``output``."""
    if answer is None:
        return {"error": "The call was not carried out: no result was given."}
    text = "\n".join(part.text for part in answer.parts if isinstance(part, TextPart))
    if answer.raw.get("is_error") is True:
        return {"error": text}
    if text.lstrip()[:1] == "{":
        try:
            value = exact_loads(text.encode())
        except ValueError:
            value = None
        if isinstance(value, dict):
            return value
    return {"output": text}


# Content parts


def _part(job: Job, part: Part) -> list[JsonObject]:
    """A content part as Gemini's parts: none for empty text."""
    if isinstance(part, TextPart):
        return [{"text": part.text}] if part.text else []
    if isinstance(part, AudioPart):
        return [_inline(_audio_type(part), part.data)]
    if isinstance(part, ImagePart):
        return [_image(job, part)]
    return [_file(job, part)]


def _inline(mime: str, data: str) -> JsonObject:
    return {"inlineData": {"mimeType": mime, "data": data}}


def _audio_type(part: AudioPart) -> str:
    mime = _AUDIO_TYPES.get(part.format.lower())
    if mime is None:
        raise refuse(
            f"Audio must be one of {', '.join(_AUDIO_TYPES)}, not {part.format!r}.",
            f"{part.param}.format",
        )
    return mime


def _image(job: Job, part: ImagePart) -> JsonObject:
    param = f"{part.param}.url"
    if part.url is None:
        return _inline(_image_type(part.mime, param), part.data)
    if part.url[:5].lower() == "gs://":
        mime = _EXTENSIONS.get(part.url.rpartition(".")[2].lower())
        if mime is None:
            raise refuse("A gs:// image must end in its type, as .png or .jpg.", param)
        return {"fileData": {"mimeType": mime, "fileUri": part.url}}
    mime, data = _fetched(job, part.url, param)
    return _inline(_image_type(mime, param), data)


def _image_type(mime: str, param: str) -> str:
    if mime == "image/jpg":
        return "image/jpeg"
    if mime not in _IMAGE_TYPES:
        raise refuse(
            f"Images must be PNG, JPEG, WebP, GIF, HEIC or HEIF, not {mime or 'unknown'!r}.", param
        )
    return mime


def _file(job: Job, part: FilePart) -> JsonObject:
    mime, data = part.mime, part.data
    param = f"{part.param}.file_data"
    if part.url is not None:
        fetched, data = _fetched(job, part.url, param)
        mime = fetched if fetched not in ("", "application/octet-stream") else mime
    if mime.startswith("text/") or mime in _TEXT_TYPES:
        return _inline("text/plain", _checked_text(data, param))
    if mime == "image/jpg" or mime.startswith("image/"):
        return _inline(_image_type(mime, param), data)
    if mime == "application/pdf" or mime.startswith(("audio/", "video/")):
        return _inline(_AUDIO_ALIASES.get(mime, mime), data)
    raise refuse(
        f"This model reads PDF, text, image, audio and video files, not {mime or 'unknown'!r}: "
        "name the type in a data: URL or by the file name's ending.",
        param,
    )


def _checked_text(data: str, param: str) -> str:
    try:
        b64decode(data).decode("utf-8")
    except ValueError as error:
        raise refuse("A text file must be UTF-8.", param) from error
    return data


def _fetched(job: Job, url: str, param: str) -> tuple[str, str]:
    """(mime, base64) of what the guard fetched for a URL."""
    check_media_url(url, param)
    media = job.media.get(url)
    if media is None:
        raise refuse("The file at this URL could not be fetched: send it as a data: URL.", param)
    return media.mime.partition(";")[0].strip().lower(), b64encode(media.data).decode("ascii")


def check_media_url(url: str, param: str) -> None:
    """Refuse what must not be fetched or passed on.

    A Files API URI names a file in the provider account all customers share: one could read
    another's. Raises `InvalidRequest`.
    """
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".").lower()
    except ValueError as error:
        raise refuse("This is not a URL.", param) from error
    if host == _FILES_API:
        raise refuse(
            "Files stored at the provider cannot be named here: send the bytes as a data: URL.",
            param,
        )
    if parts.scheme.lower() not in ("http", "https"):
        raise refuse("Media must be given as a data:, https: or gs: URL.", param)


def media_urls_of(chat: Chat) -> dict[str, str]:
    """The URLs that must be fetched through the guard and inlined, and where each stands first."""
    urls: dict[str, str] = {}
    for message in chat.messages:
        for part in message.parts:
            if not isinstance(part, ImagePart | FilePart) or part.url is None:
                continue
            if part.url[:5].lower() != "gs://":
                name = "url" if isinstance(part, ImagePart) else "file_data"
                place = f"{part.param}.{name}"
                check_media_url(part.url, place)
                urls.setdefault(part.url, place)
    return urls
