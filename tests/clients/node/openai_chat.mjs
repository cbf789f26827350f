// The npm package `openai`: chat completions, the Responses API, and what lies beside them.
import OpenAI from "openai";
import { INPUTS, MESSAGES, SCHEMA, TOOL, TOOL_MESSAGES, collect, failure, listed, main, refusals } from "./common.mjs";

const FORM = { type: "json_schema", json_schema: { name: "trip", strict: true, schema: SCHEMA } };
const ENDLESS = { type: "json_schema", json_schema: { name: "numbers", schema: INPUTS.endless_schema } };
const connect = ({ url, key }, options = {}) =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0, timeout: 60_000, ...options });
const ask = (target, more = {}, options = {}) =>
  connect(target, options).chat.completions.create({
    model: target.model, messages: MESSAGES, temperature: 0, ...more,
  });
const whole = (answer) => ({
  text: answer.choices[0].message.content,
  finish: answer.choices[0].finish_reason,
  tokens_in: answer.usage.prompt_tokens,
  tokens_out: answer.usage.completion_tokens,
});

async function roundTrip(target, message, finish) {
  const call = message.tool_calls[0];
  const said = { role: "assistant", content: message.content, tool_calls: message.tool_calls };
  const result = { role: "tool", tool_call_id: call.id, content: INPUTS.tool_result };
  const answer = await ask(target, { messages: [...TOOL_MESSAGES, said, result], tools: [TOOL], max_tokens: 60 });
  return {
    name: call.function.name,
    id: call.id,
    arguments: JSON.parse(call.function.arguments),
    calls: message.tool_calls.length,
    finish,
    text: answer.choices[0].message.content,
  };
}

await main("openai", {
  chat: async (target) => whole(await ask(target)),
  async stream(target) {
    const chunks = await collect(await ask(target, { stream: true, stream_options: { include_usage: true } }));
    const pieces = chunks.map((one) => one.choices[0]?.delta.content).filter(Boolean);
    const { prompt_tokens, completion_tokens } = chunks.at(-1).usage;
    return {
      text: pieces.join(""),
      pieces: pieces.length,
      finish: chunks.findLast((one) => one.choices.length).choices[0].finish_reason,
      tokens_in: prompt_tokens,
      tokens_out: completion_tokens,
      same_id: new Set(chunks.map((one) => one.id + one.object)).size === 1,
    };
  },
  async stream_helper(target) {
    const running = connect(target).chat.completions.stream({
      model: target.model, messages: MESSAGES, temperature: 0, stream_options: { include_usage: true },
    });
    let pieces = 0;
    running.on("content", () => { pieces += 1; });
    return { ...whole(await running.finalChatCompletion()), pieces };
  },
  async tools(target) {
    const { message, finish_reason } =
      (await ask(target, { messages: TOOL_MESSAGES, tools: [TOOL], tool_choice: "required" })).choices[0];
    return roundTrip(target, message, finish_reason);
  },
  async tools_stream(target) {
    const running = connect(target).chat.completions.stream({
      model: target.model, messages: TOOL_MESSAGES, temperature: 0, tools: [TOOL],
      tool_choice: { type: "function", function: { name: INPUTS.tool_name } },
    });
    let pieces = 0;
    running.on("tool_calls.function.arguments.delta", () => { pieces += 1; });
    const { message, finish_reason } = (await running.finalChatCompletion()).choices[0];
    return { ...(await roundTrip(target, message, finish_reason)), pieces };
  },
  // The package's own loop: it calls the function and asks again until there is a text.
  async tools_runner(target) {
    const called = [];
    const run = (value) => { called.push(value); return INPUTS.tool_result; };
    const running = connect(target).chat.completions.runTools({
      model: target.model, messages: TOOL_MESSAGES, temperature: 0,
      tools: [{ type: "function", function: { ...TOOL.function, function: run, parse: JSON.parse } }],
      tool_choice: { type: "function", function: { name: INPUTS.tool_name } },
    });
    await running.done();
    const answer = await ask(target, { messages: running.messages, tools: [TOOL], max_tokens: 60 });
    return {
      name: INPUTS.tool_name, id: "the package's own affair", arguments: called[0], calls: called.length,
      finish: "stop", text: answer.choices[0].message.content,
    };
  },
  async structured(target) {
    const answer = await connect(target).chat.completions.parse({
      model: target.model, messages: TOOL_MESSAGES, temperature: 0, response_format: FORM,
    });
    return { value: JSON.parse(answer.choices[0].message.content) };
  },
  errors: (target) => refusals(target, ask, connect),
  async cancel(target) {
    const found = await ask(target, { response_format: ENDLESS, stream: true, max_tokens: 8000 });
    for await (const chunk of found) {
      if (chunk.choices[0].delta.content) {
        found.controller.abort();
        return { first: chunk.choices[0].delta.content };
      }
    }
    return { first: "" };
  },
  timeout: (target) => failure(() => ask(target, { response_format: ENDLESS, max_tokens: 8000 }, { timeout: 1000 })),
  models: (target) => listed(target, connect),
  async headers(target) {
    const running = connect(target).chat.completions.create({ model: target.model, messages: MESSAGES, temperature: 0 });
    const { data, response } = await running.withResponse();
    return { ...whole(data), headers: Object.fromEntries(response.headers) };
  },
  async embeddings(target) {
    const ask = (more) => connect(target).embeddings.create({ model: target.model, input: INPUTS.texts, ...more });
    const [packed, plain] = [await ask({}), await ask({ encoding_format: "float" })];
    return {
      vectors: packed.data.map((one) => one.embedding),
      plain: plain.data.map((one) => one.embedding),
      tokens_in: packed.usage.prompt_tokens,
    };
  },
  retries: async (target) => whole(await ask(target, {}, { maxRetries: 2 })),
  async broken_stream(target) {
    let text = "";
    const raised = await failure(async () => {
      for await (const chunk of await ask(target, { stream: true })) text += chunk.choices[0]?.delta.content ?? "";
    });
    return { ...raised, text, api_error: "APIError" };
  },
  async chat_responses(target) {
    const answer = await connect(target).responses.create({
      model: target.model, input: INPUTS.question, temperature: 0,
    });
    const { input_tokens, output_tokens } = answer.usage;
    return { text: answer.output_text, finish: answer.status, tokens_in: input_tokens, tokens_out: output_tokens };
  },
  async stream_responses(target) {
    const running = connect(target).responses.stream({ model: target.model, input: INPUTS.question, temperature: 0 });
    const events = await collect(running);
    const { output_text, status, usage } = await running.finalResponse();
    return {
      text: output_text,
      pieces: events.filter((event) => event.type === "response.output_text.delta").length,
      finish: status,
      tokens_in: usage.input_tokens,
      tokens_out: usage.output_tokens,
    };
  },
});
