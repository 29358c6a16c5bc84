// Calls to the server.  Errors are thrown as `Error`s whose message says what the server said.

const KEY = "sgen.key";

export const key = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

export class ServerError extends Error {
  constructor(status, body) {
    super(body.message || `the server answered ${status}`);
    this.status = status;
    this.param = body.param || "";
    this.code = body.code || "";
  }
}

async function call(path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const options = { method: body === undefined ? "GET" : "POST", headers, signal };
  if (body !== undefined) options.body = typeof body === "string" ? body : JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, { message: "the server cannot be reached" });
  }
  if (response.ok) return response;
  const found = await response.json().catch(() => ({}));
  throw new ServerError(response.status, found.error || {});
}

export async function json(path, body, signal) {
  return (await call(path, body, signal)).json();
}

// Runs a program; `onEvent` gets each event.  The promise is done with the last one.
export async function runProgram(program, args, signal, onEvent) {
  const response = await call("/v1/programs", { program, args, stream: true }, signal);
  let last = null;
  for await (const data of events(response.body)) {
    last = JSON.parse(data);
    onEvent(last);
  }
  if (last && last.type === "error") throw new ServerError(0, last.error);
  if (!last || last.type !== "done") throw new ServerError(0, { message: "the stream was cut" });
  return last;
}

// The data of server-sent events.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter((line) => line.startsWith("data: "));
      if (lines.length) yield lines.map((line) => line.slice(6)).join("\n");
    }
  }
}
