// Speaking to the server: JSON, problem documents, and events with a token.

let token = sessionStorage.getItem("token") ?? "";

export function rememberToken(text) {
  token = text.trim();
  sessionStorage.setItem("token", token);
}

export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function headers() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

export async function about() {
  return (await fetch("/page.json")).json();
}

export async function api(path, options = {}) {
  const response = await reach(path, options);
  return response.json();
}

export async function text(path) {
  const response = await reach(path);
  return response.text();
}

async function reach(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch {
    throw new Problem(0, "The server cannot be reached.");
  }
  if (!response.ok) throw await problemOf(response.status, await response.text());
  return response;
}

export function problemOf(status, body) {
  let detail = "";
  try {
    detail = JSON.parse(body).detail;
  } catch {
    // not a problem document
  }
  return new Problem(status, detail || `The server answered with ${status}.`);
}

// A POST whose upload can be watched, which fetch cannot.
export function send(url, form, onShare, withToken) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    if (withToken) for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && onShare(event.loaded / event.total);
    request.onload = () =>
      request.status < 400 ? resolve(request.responseText) : reject(problemOf(request.status, request.responseText));
    request.onerror = () => reject(new Problem(0, "The upload was cut off."));
    request.send(form);
  });
}

// A job as it goes on, up to its end. EventSource could not carry the token.
export async function* events(job) {
  yield job;
  while (!ended(job)) {
    const response = await reach(job.links.events);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let read = "";
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        read += value;
        const parts = read.split("\n\n");
        read = parts.pop();
        for (const part of parts) {
          const data = part.match(/^data: (.*)$/m);
          if (!data) continue;
          job = JSON.parse(data[1]);
          yield job;
        }
      }
    } catch {
      // a proxy closed it: begin again
    }
    if (!ended(job)) await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function ended(job) {
  return ["succeeded", "failed", "given_up", "cancelled"].includes(job.status);
}
