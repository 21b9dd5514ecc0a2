"""A Gemini API on loopback that refuses whatever Google would refuse.

`check_generate`, `check_embed` and `check_predict` are the rules, usable without a server: shapes by
the types of google-genai (unknown fields forbidden), meaning by wire notes 6.2 to 6.9. What a model
takes is written down here a second time, apart from the quirks under test. `fake_gemini` serves
deterministic answers over HTTP and can be scripted to misbehave:

    with fake_gemini() as google:
        google.script.append(Scripted(503, b'{"error": {…}}'))
        ... google.url, google.key, google.requests
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from google.genai import types
from pydantic import ValidationError

Json = dict[str, Any]

SKIP = "skip_thought_signature_validator"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n fake").decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0 fake").decode()


class Refusal(Exception):
    """A 400 in Google's shape."""

    def __init__(self, message: str, status: str = "INVALID_ARGUMENT", code: int = 400) -> None:
        super().__init__(message)
        self.message, self.status, self.code = message, status, code

    def body(self) -> bytes:
        error = {"code": self.code, "message": self.message, "status": self.status}
        return json.dumps({"error": error}).encode()


def need(condition: object, message: str) -> None:
    if not condition:
        raise Refusal(message)


def typed(kind: Any, value: Any, where: str) -> None:
    try:
        kind.model_validate(value)
    except ValidationError as error:
        raise Refusal(f"{where}: {error}") from error


# --- what models take


@dataclass(frozen=True)
class Family:
    generation: float
    name: str

    @property
    def modern(self) -> bool:
        return self.generation >= 3

    @property
    def image(self) -> bool:
        return "image" in self.name

    @property
    def thinks(self) -> str:
        if self.image or self.generation < 2.5:
            return "no"
        return "level" if self.modern else "budget"

    @property
    def samples(self) -> bool:
        flagged = r"gemini-(3\.5-flash-lite|3\.[678]-flash)"
        return re.match(flagged, self.name) is None


def family(model: str) -> Family:
    match = re.match(r"gemini-(\d+(?:\.\d+)?)", model)
    if match is None:
        raise Refusal(f"models/{model} is not found for API version v1beta", "NOT_FOUND", 404)
    return Family(float(match[1]), model)


# --- rules of generateContent

BODY_KEYS = {
    "contents",
    "systemInstruction",
    "tools",
    "toolConfig",
    "generationConfig",
    "safetySettings",
    "cachedContent",
    "serviceTier",
    "store",
}
KINDS = ("text", "inlineData", "fileData", "functionCall", "functionResponse")
MIMES = re.compile(
    r"image/(png|jpeg|webp|gif|heic|heif)|audio/(wav|mp3|aac|flac|ogg|aiff)|video/.+"
    r"|application/pdf|text/plain"
)


def check_generate(
    model: str, body: Json, issued: dict[str, tuple[str, str]] | None = None
) -> None:
    """Raises `Refusal`. ``issued``: signatures given out, with their model and function's name."""
    kin = family(model)
    need(set(body) <= BODY_KEYS, f"Unknown name: {set(body) - BODY_KEYS}")
    if "systemInstruction" in body:
        typed(types.Content, body["systemInstruction"], "systemInstruction")
        parts = body["systemInstruction"]["parts"]
        need(parts and all(set(p) == {"text"} and p["text"] for p in parts), "systemInstruction")
    check_contents(kin, body.get("contents"))
    if kin.modern:
        check_signatures(kin, body["contents"], issued)
    names = check_tools(body.get("tools", []))
    check_calling(body.get("toolConfig"), names)
    check_config(kin, body.get("generationConfig", {}), names)


def check_contents(kin: Family, contents: Any) -> None:
    need(isinstance(contents, list) and contents, "contents is not specified")
    for content in contents:
        typed(types.Content, content, "contents")
        need(content.get("role") in ("user", "model"), "Please use a valid role: user, model.")
        need(content.get("parts"), "contents.parts must not be empty.")
        for part in content["parts"]:
            check_part(kin, part)
    need(contents[0]["role"] == "user", "The first content must be of the user.")
    for before, after in itertools.pairwise(contents):
        need(before["role"] != after["role"], "Roles must alternate.")
    for index, content in enumerate(contents):
        following = contents[index + 1] if index + 1 < len(contents) else {"parts": []}
        calls = [p["functionCall"] for p in content["parts"] if "functionCall" in p]
        answers = [p["functionResponse"] for p in following["parts"] if "functionResponse" in p]
        need(content["role"] == "model" or not calls, "Only the model calls functions.")
        need(
            sorted(c["name"] for c in calls) == sorted(a["name"] for a in answers),
            "Please ensure that the number of function response parts is equal to the number of "
            "function call parts of the function call turn.",
        )
        need([c.get("id") for c in calls] == [a.get("id") for a in answers], "ids do not match")
    need(not any("functionResponse" in p for p in contents[0]["parts"]), "response without call")


def check_part(kin: Family, part: Json) -> None:
    kinds = [kind for kind in KINDS if kind in part]
    need(len(kinds) == 1, f"A part needs exactly one kind of data, not {kinds}")
    need(set(part) <= {kinds[0], "thought", "thoughtSignature"}, f"Unknown name in {set(part)}")
    value = part[kinds[0]]
    if kinds[0] == "text":
        need(value or "thoughtSignature" in part, "Unable to submit: empty text parameter")
    elif kinds[0] == "inlineData":
        need(MIMES.fullmatch(value["mimeType"]), f"Unsupported MIME type: {value['mimeType']}")
        need(base64.b64decode(value["data"], validate=True), "inlineData is empty")
    elif kinds[0] == "fileData":
        need(value.get("mimeType") and value["fileUri"].startswith("gs://"), "fileData")
    else:
        need(value.get("name"), "Name cannot be empty.")
        need(kin.modern or "id" not in value, 'Unknown name "id": Cannot find field.')
        key = "args" if kinds[0] == "functionCall" else "response"
        need(isinstance(value.get(key), dict), f"{key} must be an object")


def check_signatures(
    kin: Family, contents: list[Json], issued: dict[str, tuple[str, str]] | None
) -> None:
    real = [
        index
        for index, content in enumerate(contents)
        if content["role"] == "user" and not any("functionResponse" in p for p in content["parts"])
    ]
    for index, content in enumerate(contents):
        calls = [p for p in content["parts"] if "functionCall" in p]
        for part in content["parts"]:
            signature = part.get("thoughtSignature")
            if signature in (None, SKIP) or issued is None:
                continue
            need(signature in issued, "Thought signature is not valid")
            name = part.get("functionCall", {}).get("name", "")
            need(issued[signature] == (kin.name, name), "Thought signature of something else")
        if index > real[-1] and calls:
            need(
                "thoughtSignature" in calls[0],
                "Function call is missing a thought_signature in functionCall parts.",
            )


def check_tools(tools: list[Json]) -> set[str]:
    names: list[str] = []
    for tool in tools:
        typed(types.Tool, tool, "tools")
        need(tool.get("functionDeclarations"), "empty tool")
        for declaration in tool["functionDeclarations"]:
            name = declaration["name"]
            need(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}", name), f"Invalid name {name}")
            names.append(name)
            both = {"parameters", "parametersJsonSchema"} & set(declaration)
            need(len(both) < 2, "parameters and parametersJsonSchema are exclusive")
            for key in both:
                schema = declaration[key]
                need(isinstance(schema, dict) and schema, "empty schema")
                need("strict" not in schema, "Unknown name strict")
                if schema.get("type") == "object":
                    need(
                        schema.get("properties")
                        or schema.get("additionalProperties")
                        or {"anyOf", "allOf", "oneOf", "$ref", "patternProperties"} & set(schema),
                        "properties: should be non-empty for OBJECT type",
                    )
    need(len(names) <= 512, "too many declarations")
    need(len(set(names)) == len(names), "Duplicate function declaration")
    return set(names)


def check_calling(config: Json | None, names: set[str]) -> None:
    if config is None:
        return
    typed(types.ToolConfig, config, "toolConfig")
    need(names, "Function calling config is set without function_declarations.")
    calling = config["functionCallingConfig"]
    need(calling["mode"] in ("AUTO", "ANY", "NONE", "VALIDATED"), "mode")
    if "allowedFunctionNames" in calling:
        need(calling["mode"] in ("ANY", "VALIDATED"), "allowed_function_names need mode ANY")
        need(calling["allowedFunctionNames"], "allowed_function_names is empty")
        need(set(calling["allowedFunctionNames"]) <= names, "unknown allowed function")


def check_config(kin: Family, config: Json, names: set[str]) -> None:
    plain = {name: value for name, value in config.items() if name != "imageConfig"}
    typed(types.GenerationConfig, plain, "generationConfig")
    need(not any("_" in name for name in config), "camelCase only, here")
    image = config.get("imageConfig")
    if image is not None:
        typed(types.ImageConfig, image, "imageConfig")
        need(kin.image, "imageConfig is for image models")
        need(
            image.get("aspectRatio", "1:1")
            in ("1:1", "2:3", "3:2", "3:4", "4:3", "9:16", "16:9", "21:9"),
            "aspectRatio",
        )
        need(image.get("imageSize", "1K") in ("1K", "2K", "4K"), "imageSize")
        need(kin.modern or "imageSize" not in image, "imageSize is not supported")
    for name in ("presencePenalty", "frequencyPenalty"):
        need(name not in config or not kin.modern, "Penalty is not enabled for this model")
        need(-2 <= config.get(name, 0) <= 2, name)
    for name in ("temperature", "topP", "topK"):
        need(name not in config or kin.samples, f"{name} is not supported")
    need(0 <= config.get("temperature", 1) <= 2, "temperature")
    need(0 <= config.get("topP", 1) <= 1, "topP")
    need(1 <= config.get("candidateCount", 1) <= 8, "candidateCount")
    need(config.get("maxOutputTokens", 1) >= 1, "maxOutputTokens")
    need(-(2**31) <= config.get("seed", 0) < 2**31, "seed is an int32")
    stops = config.get("stopSequences", [])
    need(len(stops) <= 5 and all(stops), "stopSequences")
    need("logprobs" not in config or config.get("responseLogprobs"), "logprobs")
    need(0 <= config.get("logprobs", 0) <= 20, "logprobs")
    schema = {"responseSchema", "responseJsonSchema"} & set(config)
    need(len(schema) < 2, "two schemas")
    json_mode = config.get("responseMimeType", "text/plain") == "application/json"
    need(json_mode or not schema, "a schema needs responseMimeType application/json")
    need(
        not (json_mode and names) or kin.modern,
        "Function calling with a response mime type: 'application/json' is unsupported",
    )
    check_thinking(kin, config.get("thinkingConfig"))


def check_thinking(kin: Family, config: Json | None) -> None:
    if config is None:
        return
    need(kin.thinks != "no", "Thinking is not enabled for this model")
    level, budget = config.get("thinkingLevel"), config.get("thinkingBudget")
    need(level is None or budget is None, "You can only set one of budget and level")
    if level is not None:
        need(kin.thinks == "level", "thinking level is not supported")
        allowed = (
            ["low", "medium", "high"] if "pro" in kin.name else ["minimal", "low", "medium", "high"]
        )
        need(level.lower() in allowed, f"thinking level {level} is not supported")
    if budget is not None:
        need(kin.thinks == "budget", "thinking budget is not supported")
        least, most = (128, 32768) if "pro" in kin.name else (0, 24576)
        need(budget == -1 or least <= budget <= most, f"thinking budget {budget}")


# --- rules of the other methods


def check_embed(model: str, body: Json) -> None:
    need(set(body) == {"requests"} and body["requests"], "requests")
    for request in body["requests"]:
        need(set(request) <= {"model", "content", "outputDimensionality", "taskType"}, "unknown")
        need(request["model"] == f"models/{model}", "model must be the model of the URL")
        typed(types.Content, request["content"], "content")
        need(len(request["content"]["parts"]) == 1, "one vector is one part, here")
        need(request["content"]["parts"][0].get("text"), "empty text")
        need(1 <= request.get("outputDimensionality", 1) <= 3072, "outputDimensionality")


def check_predict(body: Json) -> None:
    need(set(body) == {"instances", "parameters"}, "instances and parameters")
    need(len(body["instances"]) == 1 and set(body["instances"][0]) == {"prompt"}, "instances")
    need(body["instances"][0]["prompt"], "prompt")
    given = body["parameters"]
    known = {"sampleCount", "aspectRatio", "sampleImageSize", "personGeneration", "outputOptions"}
    need(set(given) <= known, f"Unknown name {set(given) - known}")
    need(1 <= given.get("sampleCount", 1) <= 4, "sampleCount")
    need(given.get("aspectRatio", "1:1") in ("1:1", "3:4", "4:3", "9:16", "16:9"), "aspectRatio")
    need(given.get("sampleImageSize", "1K") in ("1K", "2K"), "sampleImageSize")
    options = given.get("outputOptions", {})
    need(set(options) <= {"mimeType", "compressionQuality"}, "outputOptions")
    need(options.get("mimeType", "image/png") in ("image/png", "image/jpeg"), "mimeType")


# --- answers


def answer(google: FakeGemini, model: str, body: Json) -> list[Json]:
    """The objects of a stream; unstreamed, their parts come in one."""
    kin = family(model)
    config = body.get("generationConfig", {})
    if "IMAGE" in config.get("responseModalities", []):
        return [image_answer(body, config)]
    parts: list[list[Json]] = []
    thoughts = 0
    if kin.thinks != "no":
        thoughts = 40
        if config.get("thinkingConfig", {}).get("includeThoughts"):
            parts.append([{"text": "Let me think.", "thought": True}])
    calls = wanted_calls(body)
    if calls:
        for number, name in enumerate(calls):
            call: Json = {"name": name, "args": {"city": "Berlin"} if number == 0 else {}}
            if kin.modern:
                call["id"] = google.next_id()
            part: Json = {"functionCall": call}
            if kin.modern and number == 0:
                part["thoughtSignature"] = google.sign(model, name)
            parts.append([part])
        parts.append([{"text": ""}])
    else:
        text = '{"answer":"4"}' if config.get("responseMimeType") else "Grüße 👋 from Gemini."
        parts.extend([[{"text": text[:7]}], [{"text": text[7:]}]])
        if kin.modern:
            parts[-1][0]["thoughtSignature"] = google.sign(model, "")
    prompt, candidates = len(json.dumps(body["contents"])) // 4, 10 * len(parts)
    usage: Json = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": candidates,
        "totalTokenCount": prompt + candidates + thoughts,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
    }
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    return [
        {
            "candidates": [{"content": {"role": "model", "parts": piece}, "index": 0}],
            "usageMetadata": usage,
            "modelVersion": model,
            "responseId": "r1",
        }
        for piece in parts
    ]


def wanted_calls(body: Json) -> list[str]:
    """ANY calls; AUTO calls when the last user turn says "call", "call all" calls every tool."""
    names = [d["name"] for tool in body.get("tools", []) for d in tool["functionDeclarations"]]
    calling = body.get("toolConfig", {}).get("functionCallingConfig", {})
    names = calling.get("allowedFunctionNames", names)
    last = body["contents"][-1]["parts"]
    if any("functionResponse" in part for part in last) or calling.get("mode") == "NONE":
        return []
    words = " ".join(part.get("text", "") for part in last)
    if "call all" in words:
        return names
    return names[:1] if "call" in words or calling.get("mode") == "ANY" else []


def image_answer(body: Json, config: Json) -> Json:
    prompt = body["contents"][0]["parts"][0]["text"]
    usage: Json = {"promptTokenCount": 7, "totalTokenCount": 7}
    if "forbidden" in prompt:
        return {
            "candidates": [{"finishReason": "IMAGE_SAFETY", "index": 0}],
            "usageMetadata": usage,
        }
    usage |= {
        "candidatesTokenCount": 1290,
        "totalTokenCount": 1297,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
    }
    part = {"inlineData": {"mimeType": "image/jpeg", "data": JPEG}}
    content = {"role": "model", "parts": [part]}
    return {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": usage,
    }


def whole(pieces: list[Json], count: int) -> Json:
    parts = [
        part
        for piece in pieces
        for part in piece["candidates"][0].get("content", {}).get("parts", [])
    ]
    candidate = {"finishReason": "STOP"} | pieces[0]["candidates"][0]
    if parts:
        candidate["content"] = {"role": "model", "parts": parts}
    candidates = [candidate | ({"index": i} if i else {}) for i in range(count)]
    return pieces[-1] | {"candidates": candidates}


# --- the server


@dataclass(frozen=True)
class Scripted:
    """What the next request is answered with instead, after it was checked."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeGemini:
    url: str = ""
    key: str = "AIzaSyFakeKeyForTests_0123456789"
    requests: list[tuple[str, Json]] = field(default_factory=list)
    script: deque[Scripted] = field(default_factory=deque)
    issued: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Signatures given out: (model, function's name, "" for text)."""
    _ids: int = 0

    def next_id(self) -> str:
        self._ids += 1
        return f"fc{self._ids}"

    def sign(self, model: str, name: str) -> str:
        signature = base64.b64encode(f"sig-{len(self.issued)}".encode()).decode()
        self.issued[signature] = (model, name)
        return signature

    def respond(self, target: str, key: str | None, raw: bytes) -> Scripted:
        """Checks a request and answers it."""
        url = urlsplit(target)
        try:
            if "key" in parse_qs(url.query):
                raise Refusal("the key leaks into logs")
            if key != self.key:
                raise Refusal("API key not valid. Please pass a valid API key.")
            match = re.fullmatch(r"/v1(?:beta)?/models/([^/:]+):(\w+)", unquote(url.path))
            if match is None:
                raise Refusal("unknown path", "NOT_FOUND", 404)
            body = json.loads(raw)
            self.requests.append((match[2], body))
            found = self._method(match[1], match[2], body, url.query)
        except Refusal as refusal:
            return Scripted(refusal.code, refusal.body())
        return self.script.popleft() if self.script else found

    def _method(self, model: str, method: str, body: Json, query: str) -> Scripted:
        if method == "batchEmbedContents":
            check_embed(model, body)
            vectors = [
                {"values": [0.5, float(len(r["content"]["parts"][0]["text"])), -0.25]}
                for r in body["requests"]
            ]
            return Scripted(200, json.dumps({"embeddings": vectors}).encode())
        if method == "predict":
            check_predict(body)
            return Scripted(200, json.dumps(predictions(body)).encode())
        check_generate(model, body, self.issued)
        pieces = answer(self, model, body)
        if method == "generateContent":
            count = body.get("generationConfig", {}).get("candidateCount", 1)
            return Scripted(200, json.dumps(whole(pieces, count)).encode())
        need(method == "streamGenerateContent" and query == "alt=sse", "alt=sse")
        pieces[-1]["candidates"][0]["finishReason"] = "STOP"
        events = "".join(f"data: {json.dumps(p, ensure_ascii=False)}\r\n\r\n" for p in pieces)
        return Scripted(200, events.encode(), {"content-type": "text/event-stream"})


def predictions(body: Json) -> Json:
    if "forbidden" in body["instances"][0]["prompt"]:
        return {"predictions": [{"raiFilteredReason": "Unable to show generated images."}]}
    mime = body["parameters"].get("outputOptions", {}).get("mimeType", "image/png")
    one = {"mimeType": mime, "bytesBase64Encoded": PNG if mime == "image/png" else JPEG}
    return {"predictions": [one] * body["parameters"]["sampleCount"]}


@contextmanager
def fake_gemini() -> Iterator[FakeGemini]:
    """The server in a thread of its own, on a free port of loopback."""
    google = FakeGemini()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"]))
            reply = google.respond(self.path, self.headers.get("x-goog-api-key"), raw)
            self.send_response(reply.status)
            headers = {"content-type": "application/json"} | reply.headers
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *args: object) -> None:
            """Silent: pytest's output is for pytest."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    google.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield google
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
