// The playground: a conversation over /v1/chat/completions that shows who wrote each token.
//
// Three parts: the wire (requests and server-sent events), the view of one answer, and the page.

const THRESHOLDS = { slm: 2, llm: 0 };
const TITLES = { routed: "Routed", slm: "Small model only", llm: "Large model only" };
const AUTHORS = { slm: "small model", llm: "large model", slm_fallback: "small model, since the large one was lost", slm_confirmed: "small model, and the large one would have written the same" };
const $ = (id) => document.getElementById(id);

// --- the wire

/** Yields the data of each event of a response, without the comments between them. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (data.length) yield data.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

/** Sends a request and yields its chunks. Throws an Error with what the server says. */
async function* chunks(body, key, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) {
    const answer = await response.json().catch(() => null);
    throw new Error(answer?.error?.message ?? `the server answers ${response.status}`);
  }
  for await (const data of events(response)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    yield chunk;
  }
  throw new Error("the answer ended in the middle");
}

// --- one answer

class AnswerView {
  constructor(kind) {
    this.text = "";
    this.element = document.createElement("section");
    this.element.className = "answer running";
    this.element.dataset.kind = kind;
    const title = document.createElement("h2");
    title.textContent = TITLES[kind];
    this.body = document.createElement("div");
    this.body.className = "text";
    this.figures = document.createElement("p");
    this.figures.className = "figures";
    this.element.append(title, this.body, this.figures);
    this.numTokens = 0;
    this.numLlm = 0;
    this.beganAt = null;
  }

  add(chunk) {
    const choice = chunk.choices[0];
    if (choice) {
      const { content = "", reasoning_content: reasoning = "" } = choice.delta;
      let left = (reasoning ?? "") + (content ?? "");
      this.text += content ?? "";
      const spans = document.createDocumentFragment();
      for (const token of choice.tokens ?? []) {
        spans.append(this.#span(token));
        left = left.slice(token.text.length);
      }
      // What was held back until the end belongs to no token.
      if (left) spans.append(left);
      this.body.append(spans);
      if (choice.finish_reason === "length") this.#remark("cut: that was the room for it");
    }
    this.#tell(chunk.usage);
  }

  end(error) {
    this.element.classList.remove("running");
    if (!error) return;
    if (error.name === "AbortError") this.#remark("stopped");
    else {
      const line = document.createElement("p");
      line.className = "error";
      line.setAttribute("role", "alert");
      line.textContent = error.message;
      this.element.append(line);
    }
  }

  #span(token) {
    this.beganAt ??= performance.now();
    this.numTokens += 1;
    this.numLlm += token.source === "llm";
    const span = document.createElement("span");
    span.className = `token ${token.source}`;
    span.textContent = token.text;
    const probability = token.divergence_probability;
    const said = probability === null || probability === undefined ? "" : `, ${(100 * probability).toFixed(1)}% to go astray`;
    span.dataset.tip = `${AUTHORS[token.source] ?? token.source}${said}`;
    return span;
  }

  #tell(usage) {
    const seconds = (performance.now() - (this.beganAt ?? performance.now())) / 1000;
    const share = this.numTokens ? this.numLlm / this.numTokens : 0;
    const parts = [`${this.numTokens} tokens`, `${(100 * (usage?.llm_usage_rate ?? share)).toFixed(1)}% large model`];
    if (seconds > 0.2) parts.push(`${(this.numTokens / seconds).toFixed(0)} tokens/s`);
    if (usage?.avg_activated_params_b !== undefined) parts.push(`${size(usage.avg_activated_params_b)} parameters a token`);
    this.figures.textContent = parts.join(" · ");
  }

  #remark(text) {
    this.remark ??= this.element.appendChild(Object.assign(document.createElement("p"), { className: "figures remark" }));
    this.remark.textContent = text;
  }
}

function size(billions) {
  const [unit, name] = [[1, "B"], [1e-3, "M"], [0, "K"]].find(([least]) => billions >= least);
  return `${(billions / (unit || 1e-6)).toPrecision(3)}${name}`;
}

// --- the page

/** The conversation so far, in turns: a question and the answer to it, which is empty where there came none. */
const turns = [];
let model = "";
let running = null;

function settings() {
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  const chosen = { max_tokens: number("max-tokens"), temperature: number("temperature"), seed: number("seed") };
  if (!$("calibrated").checked) chosen.target_llm_usage = Number($("budget").value) / 100;
  return chosen;
}

function request(kind, question) {
  const messages = turns.filter((turn) => turn.answer).flatMap((turn) => [
    { role: "user", content: turn.question },
    { role: "assistant", content: turn.answer },
  ]);
  if ($("system").value) messages.unshift({ role: "system", content: $("system").value });
  messages.push({ role: "user", content: question });
  const body = { model, messages, ...settings() };
  if (kind in THRESHOLDS) {
    delete body.target_llm_usage;
    body.threshold = THRESHOLDS[kind];
  }
  return JSON.parse(JSON.stringify(body));
}

async function answer(kind, question, place, signal) {
  const view = new AnswerView(kind);
  place.append(view.element);
  const body = {
    ...request(kind, question),
    stream: true,
    stream_options: { include_usage: true },
    include_token_sources: true,
    separate_reasoning: false,
  };
  try {
    for await (const chunk of chunks(body, $("key").value, signal)) {
      const main = $("conversation");
      const atEnd = main.scrollHeight - main.scrollTop - main.clientHeight < 40;
      view.add(chunk);
      if (atEnd) main.scrollTop = main.scrollHeight;
    }
    view.end();
  } catch (error) {
    view.end(error);
  }
  return view;
}

async function ask(question) {
  running = new AbortController();
  enable();
  $("welcome").hidden = true;
  $("note").textContent = "";
  const turn = document.createElement("article");
  const asked = document.createElement("p");
  asked.className = "question";
  asked.textContent = question;
  const place = document.createElement("div");
  place.className = "answers";
  turn.append(asked, place);
  $("conversation").append(turn);
  turn.scrollIntoView({ block: "end" });
  const kinds = ["routed", $("compare").value].filter(Boolean);
  const [routed] = await Promise.all(kinds.map((kind) => answer(kind, question, place, running.signal)));
  turns.push({ question, answer: routed.text, element: turn });
  running = null;
  enable();
}

function enable() {
  const busy = running !== null;
  $("send").disabled = busy;
  $("stop").disabled = !busy;
  for (const id of ["retry", "clear", "copy-curl", "copy-python"]) $(id).disabled = busy || turns.length === 0;
}

/** The request of the last turn, as somebody would send it without this page. */
function lastRequest() {
  const last = turns.pop();
  const body = request("routed", last.question);
  turns.push(last);
  return body;
}

function asCurl() {
  const quoted = JSON.stringify({ ...lastRequest(), stream: true }, null, 2).replaceAll("'", "'\\''");
  const key = $("key").value ? ` \\\n  -H "Authorization: Bearer $API_KEY"` : "";
  return `curl -N ${base()}/chat/completions \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${quoted}'\n`;
}

function asPython() {
  const { model: name, messages, target_llm_usage: budget, ...options } = lastRequest();
  const lines = [`model=${python(name)},`, `messages=${python(messages)},`];
  for (const [option, value] of Object.entries(options)) lines.push(`${option}=${python(value)},`);
  if (budget !== undefined) lines.push(`extra_body={"target_llm_usage": ${budget}},`);
  const key = $("key").value ? 'os.environ["API_KEY"]' : '"none"';
  return `${$("key").value ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${python(base())}, api_key=${key})
stream = client.chat.completions.create(
    ${lines.join("\n    ")}
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
`;
}

/** A JSON value as a Python literal: they differ in three words. */
function python(value) {
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${python(one)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}

function base() {
  return new URL("v1", document.baseURI).href;
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    $("note").textContent = `${what} is in the clipboard`;
  } catch {
    // Browsers give pages without HTTPS no clipboard.
    const area = document.body.appendChild(Object.assign(document.createElement("textarea"), { value: text }));
    area.select();
    $("note").textContent = document.execCommand("copy") ? `${what} is in the clipboard` : "the browser refuses to copy";
    area.remove();
  }
}

function showTip(target) {
  const tip = $("tip");
  document.querySelector(".token.shown")?.classList.remove("shown");
  tip.hidden = !target;
  if (!target) return;
  target.classList.add("shown");
  tip.textContent = target.dataset.tip;
  const box = target.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(box.left, innerWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${box.top > tip.offsetHeight + 8 ? box.top - tip.offsetHeight - 4 : box.bottom + 4}px`;
}

function send() {
  const question = $("question").value.trim();
  if (!question || running) return;
  $("question").value = "";
  ask(question);
}

function stop() {
  running?.abort();
}

async function showModel() {
  const headers = $("key").value ? { Authorization: `Bearer ${$("key").value}` } : {};
  const response = await fetch("v1/models", { headers }).catch(() => null);
  const answer = await response?.json().catch(() => null);
  model = answer?.data?.[0]?.id ?? "";
  $("model").textContent = model || answer?.error?.message || "no answer from the server yet";
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
$("stop").addEventListener("click", stop);
$("retry").addEventListener("click", () => {
  const last = turns.pop();
  last.element.remove();
  ask(last.question);
});
$("clear").addEventListener("click", () => {
  for (const turn of turns.splice(0)) turn.element.remove();
  $("welcome").hidden = false;
  enable();
  $("question").focus();
});
$("copy-curl").addEventListener("click", () => copy(asCurl(), "a curl command"));
$("copy-python").addEventListener("click", () => copy(asPython(), "a Python program"));
$("calibrated").addEventListener("change", () => {
  $("budget").disabled = $("calibrated").checked;
});
$("budget").addEventListener("input", () => {
  $("budget-value").textContent = `${$("budget").value}%`;
});
$("key").addEventListener("change", showModel);
document.addEventListener("pointerover", (event) => showTip(event.target.closest?.(".token[data-tip]")));
document.addEventListener("click", (event) => showTip(event.target.closest?.(".token[data-tip]")));

showModel();
