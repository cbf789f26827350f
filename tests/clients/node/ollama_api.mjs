// The npm package `ollama`: chat, generate, embed, and the questions about models.
import { Ollama } from "ollama";
import { INPUTS, MESSAGES, TOOL, TOOL_MESSAGES, collect, failure, main } from "./common.mjs";

const GREEDY = { temperature: 0 };
const connect = ({ url, key }) => new Ollama({ host: url, headers: { Authorization: `Bearer ${key}` } });
const ask = (target, more = {}) =>
  connect(target).chat({ model: target.model, messages: MESSAGES, options: GREEDY, ...more });
const whole = (answer, text) => ({
  text,
  finish: answer.done_reason,
  tokens_in: answer.prompt_eval_count,
  tokens_out: answer.eval_count,
  same_id: answer.done && answer.total_duration > 0,
});

// The API cannot demand a call: where the model does without, one is made up to go on.
async function roundTrip(target, message, finish) {
  const calls = message.tool_calls ?? [];
  const madeUp = { function: { name: INPUTS.tool_name, arguments: { city: "Rome", days: 1 } } };
  const said = calls.length ? message : { role: "assistant", content: "", tool_calls: [madeUp] };
  const result = { role: "tool", tool_name: INPUTS.tool_name, content: INPUTS.tool_result };
  const messages = [...TOOL_MESSAGES, said, result];
  const answer = await ask(target, { messages, tools: [TOOL], options: { ...GREEDY, num_predict: 60 } });
  return {
    name: calls[0]?.function.name, id: "none in this API", arguments: calls[0]?.function.arguments,
    calls: calls.length, may_do_without: true, finish, text: answer.message.content,
  };
}

await main("ollama", {
  async chat(target) {
    const answer = await ask(target);
    return whole(answer, answer.message.content);
  },
  async stream(target) {
    const parts = await collect(await ask(target, { stream: true }));
    const pieces = parts.map((one) => one.message.content).filter(Boolean);
    return { ...whole(parts.at(-1), pieces.join("")), pieces: pieces.length };
  },
  async stream_generate(target) {
    const asked = { model: target.model, prompt: INPUTS.question, options: GREEDY, stream: true };
    const parts = await collect(await connect(target).generate(asked));
    const pieces = parts.map((one) => one.response).filter(Boolean);
    return { ...whole(parts.at(-1), pieces.join("")), pieces: pieces.length };
  },
  async tools(target) {
    const answer = await ask(target, { messages: TOOL_MESSAGES, tools: [TOOL] });
    return roundTrip(target, answer.message, answer.done_reason);
  },
  async structured(target) {
    const answer = await ask(target, { messages: TOOL_MESSAGES, format: INPUTS.schema });
    return { value: JSON.parse(answer.message.content) };
  },
  async errors(target) {
    const unknown = { ...target, model: "no-such-model" };
    return {
      unknown: await failure(() => ask(unknown)),
      unknown_stream: await failure(async () => collect(await ask(unknown, { stream: true }))),
      bad: await failure(() => ask(target, { options: { temperature: 99 } })),
      key: await failure(() => ask({ ...target, key: "sk-wrong" })),
      retrieve: await failure(() => connect(target).show({ model: "no/such" })),
    };
  },
  async cancel(target) {
    const found = await ask(target, { format: INPUTS.endless_schema, stream: true });
    for await (const part of found) {
      if (part.message.content) {
        found.abort();
        return { first: part.message.content };
      }
    }
    return { first: "" };
  },
  async models(target) {
    const client = connect(target);
    const { capabilities } = await client.show({ model: target.model });
    const copied = (await client.copy({ source: "demo", destination: "copied:by-node" })).status;
    const answer = await ask({ ...target, model: "copied:by-node" }, { options: { num_predict: 1 } });
    const listed = (await client.list()).models.some((one) => one.name === "copied:by-node");
    const deleted = (await client.delete({ model: "copied:by-node" })).status;
    return {
      copy: [copied, answer.eval_count, listed, deleted],
      ids: (await client.list()).models.map((one) => one.name),
      retrieved: capabilities.includes("completion") ? target.model : capabilities,
      running: (await client.ps()).models.map((one) => one.name),
    };
  },
  async embeddings(target) {
    const found = await connect(target).embed({ model: target.model, input: INPUTS.texts });
    return { vectors: found.embeddings, tokens_in: found.prompt_eval_count };
  },
  async broken_stream(target) {
    let text = "";
    const raised = await failure(async () => {
      for await (const part of await ask(target, { stream: true })) text += part.message.content;
    });
    return { ...raised, text, api_error: "Error" };
  },
});
