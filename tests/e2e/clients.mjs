// Drives a gateway with one of the Node SDKs: `node clients.mjs openai-7`, settings in the environment.
// Prints {"scenario model": null or the error} as one JSON document; test_clients_node.py reads it.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(new URL("../node/package.json", import.meta.url));
const [client] = process.argv.slice(2);
const { WORLD_URL: baseURL, WORLD_KEY: apiKey } = process.env;
const CHAT = JSON.parse(process.env.WORLD_CHAT);
const PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=";
const CITY = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const ASK = "Please call all: call get_weather and call get_time, in Berlin and Paris.";
const user = (content) => [{ role: "user", content }];
const results = {};

async function run(scenarios, models) {
  for (const [name, scenario] of Object.entries(scenarios)) {
    for (const model of models) {
      const key = models.length > 1 ? `${name} ${model}` : name;
      try {
        await scenario(model);
        results[key] = null;
      } catch (error) {
        results[key] = String(error?.stack ?? error).slice(0, 2000);
      }
    }
  }
}

// --- OpenAI's own SDK

async function openai() {
  const OpenAI = require(client);
  const make = (options) => new OpenAI({ apiKey, baseURL, maxRetries: 0, ...options });
  const sdk = make();
  const helpers = client === "openai-4" ? sdk.beta.chat.completions : sdk.chat.completions;
  const tools = ["get_weather", "get_time"].map((name) => ({
    type: "function",
    function: { name, description: name, parameters: CITY },
  }));
  const answer = (call) => {
    assert.ok(call.id);
    assert.equal(typeof JSON.parse(call.function.arguments), "object");
    return { role: "tool", tool_call_id: call.id, content: JSON.stringify({ degrees: 9 }) };
  };
  const bare = (message) => ({
    role: message.role,
    content: message.content,
    tool_calls: message.tool_calls?.map(({ id, type, function: { name, arguments: args } }) => ({
      id, type, function: { name, arguments: args },
    })),
  });

  async function twoSteps(model, ask, back, extra = {}) {
    const messages = user(ASK);
    const first = await ask({ model, messages, tools, ...extra });
    assert.equal(first.choices[0].finish_reason, "tool_calls");
    const { message } = first.choices[0];
    assert.ok(message.tool_calls.length >= 2, "parallel calls");
    assert.equal(new Set(message.tool_calls.map((c) => c.id)).size, message.tool_calls.length);
    messages.push(back(message), ...message.tool_calls.map(answer).reverse());
    const second = await ask({ model, messages, tools, ...extra });
    assert.equal(second.choices[0].finish_reason, "stop");
    assert.ok(second.choices[0].message.content);
  }
  const whole = (body) => sdk.chat.completions.create(body);
  const streamed = (body) => helpers.stream(body).finalChatCompletion();

  await run({
    async plain(model) {
      const { data, response } = await sdk.chat.completions
        .create({ model, messages: user("Grüße 👋 \u2028") }).withResponse();
      assert.equal(data.model, model);
      assert.equal(data.object, "chat.completion");
      assert.ok(data.choices[0].message.content);
      assert.equal(data.choices[0].finish_reason, "stop");
      assert.equal(data.usage.total_tokens, data.usage.prompt_tokens + data.usage.completion_tokens);
      assert.match(response.headers.get("x-request-id"), /^req_/);
      assert.equal(data._request_id, response.headers.get("x-request-id"));
      assert.ok(Number(response.headers.get("x-sellapi-credits-charged")) > 0);
    },
    async stream(model) {
      const stream = await sdk.chat.completions.create({
        model, messages: user("Hi"), stream: true, stream_options: { include_usage: true },
      });
      const chunks = [];
      for await (const chunk of stream) chunks.push(chunk);
      assert.equal(new Set(chunks.map((c) => `${c.id} ${c.created} ${c.model}`)).size, 1);
      assert.equal(chunks.at(-1).choices.length, 0);
      assert.ok(chunks.at(-1).usage.total_tokens > 0);
      assert.ok(Number(chunks.at(-1).sellapi.credits_charged) > 0);
      assert.ok(chunks.slice(0, -1).every((c) => c.usage === null));
      assert.equal(chunks.filter((c) => c.choices[0]?.delta.role).length, 1);
      assert.ok(chunks.map((c) => c.choices[0]?.delta.content ?? "").join("").length > 3);
    },
    async stream_helper(model) {
      const stream = helpers.stream({
        model, messages: user("Hi"), stream_options: { include_usage: true },
      });
      let text = "";
      stream.on("content", (delta) => { text += delta; });
      assert.equal(await stream.finalContent(), text);
      assert.ok((await stream.totalUsage()).total_tokens > 0);
    },
    tools: (model) => twoSteps(model, whole, (m) => m),
    tools_bare: (model) => twoSteps(model, whole, bare),
    tools_stream: (model) => twoSteps(model, streamed, (m) => m),
    thinking: (model) => twoSteps(model, whole, (m) => m, { reasoning_effort: "medium" }),
    thinking_bare: (model) => twoSteps(model, whole, bare, { reasoning_effort: "medium" }),
    thinking_stream: (model) => twoSteps(model, streamed, (m) => m, { reasoning_effort: "low" }),
    async run_tools(model) {
      const seen = [];
      const runnable = ["get_weather", "get_time"].map((name) => ({
        type: "function",
        function: {
          name, description: name, parameters: CITY, parse: JSON.parse,
          function: (args) => { seen.push(args); return "9 degrees"; },
        },
      }));
      const runner = helpers.runTools({ model, messages: user(ASK), tools: runnable });
      assert.ok(await runner.finalContent());
      assert.ok(seen.length >= 2);
      const again = helpers.runTools({ model, messages: user(ASK), tools: runnable, stream: true });
      assert.ok(await again.finalContent());
      assert.ok(seen.length >= 4);
    },
    async structured(model) {
      const schema = {
        type: "object", properties: { answer: { type: "string" } }, required: ["answer"],
        additionalProperties: false,
      };
      const done = await helpers.parse({
        model, messages: user('{"answer":"4"}'),
        response_format: { type: "json_schema", json_schema: { name: "a", strict: true, schema } },
      });
      assert.ok(done.choices[0].message.content);
    },
    async image_in_prompt(model) {
      const done = await sdk.chat.completions.create({
        model,
        messages: user([
          { type: "text", text: "What is this?" },
          { type: "image_url", image_url: { url: PNG, detail: "low" } },
        ]),
      });
      assert.ok(done.choices[0].message.content);
    },
    async aborted_stream(model) {
      const stream = await sdk.chat.completions.create({ model, messages: user("Hi"), stream: true });
      for await (const _ of stream) break;
    },
  }, Object.values(CHAT));

  await run({
    async embeddings(model) {
      const done = await sdk.embeddings.create({ model, input: ["Hello world", "Another text"] });
      assert.equal(done.data.length, 2);
      assert.deepEqual(done.data.map((d) => d.index), [0, 1]);
      for (const { embedding } of done.data) {
        assert.ok(Array.isArray(embedding) && embedding.length >= 3);
        assert.ok(embedding.every((x) => Math.abs(x) <= 20) && embedding.some((x) => x !== 0));
      }
      const floats = await sdk.embeddings.create({
        model, input: "Hello world", encoding_format: "float",
      });
      const near = (a, b) => Math.abs(a - b) < 1e-6;
      assert.ok(floats.data[0].embedding.every((x, i) => near(x, done.data[0].embedding[i])));
      const text = await sdk.embeddings.create({
        model, input: "Hello world", encoding_format: "base64",
      });
      assert.equal(typeof text.data[0].embedding, "string");
      assert.ok(done.usage.prompt_tokens > 0);
    },
  }, ["openai/text-embedding-3-small", "google/gemini-embedding-001"]);

  await run({
    async images(model) {
      const done = await sdk.images.generate({ model, prompt: "A cat", n: 2, size: "1024x1024" });
      assert.equal(done.data.length, 2);
      assert.ok(done.data.every((d) => Buffer.from(d.b64_json, "base64").length > 5));
    },
  }, ["openai/gpt-image-2", "google/gemini-3.1-flash-image", "google/imagen-4.0-generate-001"]);

  await run({
    async models() {
      const listed = [];
      for await (const model of sdk.models.list()) listed.push(model.id);
      assert.ok(listed.includes(CHAT.anthropic));
      const one = await sdk.models.retrieve(CHAT.anthropic);
      assert.equal(one.id, CHAT.anthropic);
      assert.equal(one.object, "model");
    },
    async errors() {
      const body = { model: CHAT.anthropic, messages: user("Hi") };
      const failure = async (promise) => {
        try { await promise; } catch (error) { return error; }
        return assert.fail("no error");
      };
      const key = await failure(make({ apiKey: "sk-sellapi-wrong" }).chat.completions.create(body));
      assert.ok(key instanceof OpenAI.AuthenticationError);
      assert.equal(key.code, "invalid_api_key");
      const unknown = await failure(sdk.chat.completions.create({ ...body, model: "no/such" }));
      assert.ok(unknown instanceof OpenAI.NotFoundError);
      assert.equal(unknown.type, "model_not_found");
      const wrong = await failure(sdk.chat.completions.create({ ...body, n: 2 }));
      assert.ok(wrong instanceof OpenAI.BadRequestError);
      assert.equal(wrong.param, "n");
      assert.match(String(wrong.requestID ?? wrong.request_id), /^req_/);
      const missing = await failure(sdk.models.retrieve("no/such"));
      assert.ok(missing instanceof OpenAI.NotFoundError);
    },
    async broken_stream() {
      const stream = await sdk.chat.completions.create({
        model: "vendor/plain-1", messages: user("Hi"), stream: true,
      });
      let text = "";
      let failure;
      try {
        for await (const chunk of stream) text += chunk.choices[0].delta.content ?? "";
      } catch (error) { failure = error; }
      assert.equal(text, "Once upon");
      assert.ok(failure instanceof OpenAI.APIError);
      assert.equal(failure.type, "upstream_error");
    },
  }, [""]);
}

// --- Vercel's AI SDK

async function vercel() {
  const { createOpenAICompatible } = await import(
    require.resolve("@ai-sdk/openai-compatible").replace(/index\.js$/, "index.mjs")
  ).catch(() => require("@ai-sdk/openai-compatible"));
  const ai = await import(require.resolve("ai").replace(/index\.js$/, "index.mjs"))
    .catch(() => require("ai"));
  const provider = createOpenAICompatible({
    name: "sellapi", apiKey, baseURL, includeUsage: true, supportsStructuredOutputs: true,
  });
  const quiet = { maxRetries: 0 };
  const city = ai.jsonSchema(CITY);
  const toolSet = (seen) => Object.fromEntries(["get_weather", "get_time"].map((name) => [
    name,
    ai.tool({
      description: name, inputSchema: city,
      execute: async (input) => { seen.push(input); return { degrees: 9 }; },
    }),
  ]));
  const looped = (model, seen) => ({
    ...quiet, model: provider(model), prompt: ASK, tools: toolSet(seen),
    stopWhen: (ai.stepCountIs ?? ai.isStepCount)(4),
  });

  await run({
    async plain(model) {
      const done = await ai.generateText({ ...quiet, model: provider(model), prompt: "Hi" });
      assert.ok(done.text);
      assert.equal(done.finishReason, "stop");
      assert.ok(done.usage.totalTokens > 0);
    },
    async stream(model) {
      const done = ai.streamText({ ...quiet, model: provider(model), prompt: "Hi" });
      let text = "";
      for await (const piece of done.textStream) text += piece;
      assert.ok(text);
      assert.equal(await done.finishReason, "stop");
      assert.ok((await done.usage).totalTokens > 0);
    },
    async tools(model) {
      const seen = [];
      const done = await ai.generateText(looped(model, seen));
      assert.ok(seen.length >= 2);
      assert.ok(done.text);
      assert.equal(done.steps.length, 2);
    },
    async tools_stream(model) {
      const seen = [];
      const done = ai.streamText(looped(model, seen));
      for await (const part of done.fullStream) if (part.type === "error") throw part.error;
      assert.ok(seen.length >= 2);
      assert.equal((await done.steps).length, 2);
    },
    async thinking(model) {
      const seen = [];
      const options = { providerOptions: { sellapi: { reasoningEffort: "medium" } } };
      const done = await ai.generateText({ ...looped(model, seen), ...options });
      assert.ok(done.text && seen.length >= 2);
      if (model !== CHAT.openai) assert.ok(done.steps[0].reasoningText);
    },
    async structured(model) {
      const schema = ai.jsonSchema({
        type: "object", properties: { answer: { type: "string" } }, required: ["answer"],
        additionalProperties: false,
      });
      const options = { ...quiet, model: provider(model), prompt: "4" };
      const done = ai.Output?.object
        ? (await ai.generateText({ ...options, output: ai.Output.object({ schema }) })).output
        : (await ai.generateObject({ ...options, schema })).object;
      assert.equal(done.answer, "4");
    },
    async image_in_prompt(model) {
      const content = [{ type: "text", text: "What is this?" }, { type: "image", image: PNG }];
      const messages = user(content);
      const done = await ai.generateText({ ...quiet, model: provider(model), messages });
      assert.ok(done.text);
    },
  }, Object.values(CHAT));

  await run({
    async embeddings(model) {
      const values = ["Hello world", "Another text"];
      const done = await ai.embedMany({ ...quiet, model: provider.embeddingModel(model), values });
      assert.equal(done.embeddings.length, 2);
      assert.ok(done.embeddings[0].length >= 3 && done.usage.tokens > 0);
    },
  }, ["openai/text-embedding-3-small", "google/gemini-embedding-001"]);

  await run({
    async images(model) {
      const draw = ai.generateImage ?? ai.experimental_generateImage;
      const done = await draw({ ...quiet, model: provider.imageModel(model), prompt: "A cat", n: 2 });
      assert.equal(done.images.length, 2);
      assert.ok(done.images.every((image) => image.uint8Array.length > 5));
    },
  }, ["openai/gpt-image-2", "google/gemini-3.1-flash-image", "google/imagen-4.0-generate-001"]);

  await run({
    async errors() {
      const call = (model, options) => ai
        .generateText({ ...quiet, model: provider(model), prompt: "Hi", ...options })
        .then(() => assert.fail("no error"), (error) => error);
      const unknown = await call("no/such");
      assert.equal(unknown.statusCode, 404);
      assert.equal(unknown.isRetryable, false);
      assert.match(unknown.message, /no\/such/);
    },
    async broken_stream() {
      const options = { ...quiet, model: provider("vendor/plain-1"), prompt: "Hi" };
      const done = ai.streamText({ ...options, onError: () => {} });
      const parts = [];
      for await (const part of done.fullStream) parts.push(part);
      assert.ok(parts.some((part) => part.type === "error"));
      assert.equal(parts.filter((part) => part.type === "text-delta").length, 1);
    },
  }, [""]);
}

await (client === "ai" ? vercel() : openai());
process.stdout.write(JSON.stringify(results));
