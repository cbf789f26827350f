// The npm package `@anthropic-ai/sdk`: messages, tools, counting, models.
import Anthropic from "@anthropic-ai/sdk";
import { INPUTS, MESSAGES, SCHEMA, TOOL_MESSAGES, failure, listed, main, refusals } from "./common.mjs";

const TOOL = { name: INPUTS.tool_name, description: INPUTS.tool_description, input_schema: SCHEMA };
const ENDLESS = { format: { type: "json_schema", schema: INPUTS.endless_schema } };
const connect = ({ url, key }, options = {}) =>
  new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0, timeout: 60_000, ...options });
const body = (target, more) => ({ model: target.model, messages: MESSAGES, max_tokens: 200, temperature: 0, ...more });
const ask = (target, more = {}, options = {}) => connect(target, options).messages.create(body(target, more));
const textOf = (message) => message.content.filter((block) => block.type === "text").map((block) => block.text).join("");
const whole = (message) => ({
  text: textOf(message),
  finish: message.stop_reason,
  tokens_in: message.usage.input_tokens,
  tokens_out: message.usage.output_tokens,
});

async function roundTrip(target, message) {
  const calls = message.content.filter((block) => block.type === "tool_use");
  const result = { type: "tool_result", tool_use_id: calls[0].id, content: INPUTS.tool_result };
  const messages = [
    ...TOOL_MESSAGES, { role: "assistant", content: message.content }, { role: "user", content: [result] },
  ];
  const answer = await ask(target, { messages, tools: [TOOL], max_tokens: 60 });
  return {
    name: calls[0].name, id: calls[0].id, arguments: calls[0].input, calls: calls.length,
    finish: message.stop_reason, text: textOf(answer),
  };
}

await main("@anthropic-ai/sdk", {
  chat: async (target) => whole(await ask(target)),
  async bearer(target) {
    const client = new Anthropic({ baseURL: target.url, apiKey: null, authToken: target.key, maxRetries: 0 });
    return whole(await client.messages.create(body(target)));
  },
  async stream(target) {
    const running = connect(target).messages.stream(body(target));
    let pieces = 0;
    running.on("text", () => { pieces += 1; });
    return { ...whole(await running.finalMessage()), pieces };
  },
  async tools(target) {
    return roundTrip(target, await ask(target, { messages: TOOL_MESSAGES, tools: [TOOL], tool_choice: { type: "any" } }));
  },
  async tools_stream(target) {
    const tool_choice = { type: "tool", name: INPUTS.tool_name };
    const running = connect(target).messages.stream(body(target, { messages: TOOL_MESSAGES, tools: [TOOL], tool_choice }));
    let pieces = 0;
    running.on("inputJson", () => { pieces += 1; });
    return { ...(await roundTrip(target, await running.finalMessage())), pieces };
  },
  async structured(target) {
    const output_config = { format: { type: "json_schema", schema: SCHEMA } };
    return { value: JSON.parse(textOf(await ask(target, { messages: TOOL_MESSAGES, output_config }))) };
  },
  errors: (target) => refusals(target, ask, connect),
  async cancel(target) {
    const found = await ask(target, { output_config: ENDLESS, max_tokens: 8000, stream: true });
    for await (const event of found) {
      if (event.type === "content_block_delta") {
        found.controller.abort();
        return { first: event.delta.text };
      }
    }
    return { first: "" };
  },
  timeout: (target) => failure(() => ask(target, { output_config: ENDLESS, max_tokens: 8000 }, { timeout: 1000 })),
  models: (target) => listed(target, connect),
  async count(target) {
    const { input_tokens } = await connect(target).messages.countTokens({
      model: target.model, messages: TOOL_MESSAGES, tools: [TOOL],
    });
    return { tokens: input_tokens };
  },
  retries: async (target) => whole(await ask(target, {}, { maxRetries: 2 })),
  async broken_stream(target) {
    let text = "";
    const raised = await failure(async () => {
      for await (const event of await ask(target, { stream: true })) {
        if (event.type === "content_block_delta") text += event.delta.text;
      }
    });
    return { ...raised, text, api_error: "APIError" };
  },
});
