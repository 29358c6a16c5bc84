// The Vercel AI SDK: text, streams, objects with and without structured outputs, tools, Responses.
// Prints one JSON object a case, as cases.py of the Python clients does.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, Output, streamText, tool } from "ai";
import { strict as assert } from "node:assert";
import { z } from "zod";

const url = (process.argv[2] ?? "http://127.0.0.1:8000").replace(/\/$/, "");
const name = process.argv[3] ?? "smollm2";
const only = process.argv.slice(4);
const options = { name: "sgen", baseURL: `${url}/v1`, apiKey: "none" };
const model = createOpenAICompatible(options)(name);
const structured = createOpenAICompatible({ ...options, supportsStructuredOutputs: true })(name);
const responses = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" })(name);

const City = z.object({
  name: z.string().max(20),
  population: z.number().int().min(0).max(50000000),
  kind: z.enum(["town", "capital", "port"]),
  note: z.string().max(20).nullable(),
});
const Wide = z.object({ count: z.int() }); // zod bounds it by plus and minus 2^53
const prompt = "Describe the city of Paris.";
const weather = "What is the weather in Paris? Use the tool.";
const tools = {
  get_weather: tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.string().max(20), unit: z.enum(["celsius", "fahrenheit"]) }),
  }),
};
const common = { maxRetries: 0 };

const cases = {
  async text() {
    const { text, usage } = await generateText({ ...common, model, prompt, maxOutputTokens: 12 });
    assert.ok(text);
    assert.ok(usage.outputTokens > 0);
  },
  async stream() {
    const result = streamText({ ...common, model, prompt, maxOutputTokens: 12 });
    let text = "";
    for await (const part of result.textStream) text += part;
    assert.ok(text);
    assert.ok(["stop", "length"].includes(await result.finishReason));
  },
  async object_json_schema() {
    const { output } = await generateText({
      ...common, model: structured, prompt, output: Output.object({ schema: City }),
    });
    City.parse(output);
  },
  async object_wide_integers() {
    const { output } = await generateText({
      ...common, model: structured, prompt: "How many?", output: Output.object({ schema: Wide }),
    });
    Wide.parse(output);
  },
  async object_json_mode() {
    const { output } = await generateText({
      ...common, model, prompt, maxOutputTokens: 60, output: Output.json(),
    });
    assert.equal(typeof output, "object");
  },
  async generate_object() {
    const { object } = await generateObject({
      ...common, model: structured, prompt, schema: City,
    });
    City.parse(object);
  },
  async object_stream() {
    const result = streamText({
      ...common, model: structured, prompt, output: Output.object({ schema: City }),
    });
    let last;
    for await (const part of result.partialOutputStream) last = part;
    City.parse(last);
  },
  async tools_required() {
    const { toolCalls, finishReason } = await generateText({
      ...common, model, prompt: weather, tools, toolChoice: "required",
    });
    assert.equal(finishReason, "tool-calls");
    assert.ok(toolCalls.length > 0);
    for (const call of toolCalls) {
      assert.ok(!call.invalid);
      tools.get_weather.inputSchema.parse(call.input);
    }
  },
  async tools_stream() {
    const result = streamText({ ...common, model, prompt: weather, tools, toolChoice: "required" });
    const calls = [];
    for await (const part of result.fullStream) {
      assert.notEqual(part.type, "error", String(part.error));
      if (part.type === "tool-call") calls.push(part);
    }
    assert.ok(calls.length > 0);
    for (const call of calls) tools.get_weather.inputSchema.parse(call.input);
  },
  async responses_object() {
    const { output } = await generateText({
      ...common, model: responses, prompt, output: Output.object({ schema: City }),
    });
    City.parse(output);
  },
  async responses_stream() {
    const result = streamText({ ...common, model: responses, prompt, maxOutputTokens: 16 });
    let text = "";
    for await (const part of result.textStream) text += part;
    assert.ok(text);
  },
};

let failed = false;
for (const [label, run] of Object.entries(cases)) {
  if (only.length && !only.includes(label)) continue;
  const started = performance.now();
  let error = "";
  try {
    await run();
  } catch (problem) {
    failed = true;
    error = `${problem?.name}: ${problem?.message}`.slice(0, 600);
    console.error(problem);
  }
  const seconds = Math.round((performance.now() - started) / 10) / 100;
  console.log(JSON.stringify({ case: label, ok: !error, seconds, error }));
}
process.exit(failed ? 1 : 0);
