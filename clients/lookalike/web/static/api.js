// The gateway's API: JSON, and errors as one class.

export class Problem extends Error {
  constructor(error, status) {
    super(error.message);
    this.reason = error.reason ?? "";
    this.field = error.field ?? "";
    this.status = status;
  }

  // True for calls that the server does not have (yet).
  get isMissing() {
    return this.status === 501;
  }
}

const AWAY = { reason: "GATEWAY_UNAVAILABLE", message: "This page's server does not answer; is it still running?" };

async function answer(request) {
  let response;
  try {
    response = await request;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(AWAY, 0);
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body) return body;
  throw new Problem(body?.error ?? { message: `The answer was ${response.status}.` }, response.status);
}

export function get(path, query = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== "" && value !== undefined && value !== null) search.append(name, value);
  }
  const text = search.toString();
  return answer(fetch(text ? `${path}?${text}` : path));
}

// Post a request; with a picture as a form, else as JSON.
export function ask(path, request, picture, signal) {
  if (!picture) {
    return answer(fetch(path, {
      method: "POST", signal, body: JSON.stringify(request),
      headers: { "Content-Type": "application/json" },
    }));
  }
  const form = new FormData();
  form.append("request", JSON.stringify(request));
  form.append("image", picture, "query");
  return answer(fetch(path, { method: "POST", signal, body: form }));
}

// Post files with progress, which fetch cannot tell; resolves with the outcomes.
export function send(path, form, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded, event.total));
    request.addEventListener("load", () => {
      const body = request.response;
      if (request.status === 200 && body) resolve(body);
      else reject(new Problem(body?.error ?? { message: `The answer was ${request.status}.` }, request.status));
    });
    request.addEventListener("error", () => reject(new Problem(AWAY, 0)));
    request.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}
