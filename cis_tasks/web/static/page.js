// The page: what is dropped becomes jobs, and jobs become answers.
import { about, api, events, rememberToken } from "/static/api.js";
import { answer, el, facts, states } from "/static/answers.js";
import { submitImage, submitSession } from "/static/submitting.js";

const $ = (id) => document.getElementById(id);
const AT_ONCE = 4; // images on their way at the same time
const REFRESH_MS = 5000;

let settings;
let waiting = [];
let busy = 0;

async function begin() {
  settings = await about();
  if (settings.flower) {
    $("flower").href = settings.flower;
    $("flower").hidden = false;
  }
  $("files").accept = Object.values(settings.pipelines)
    .flatMap((roles) => Object.values(roles).flatMap((role) => role.suffixes))
    .join(",");
  await list();
  setInterval(() => document.hidden || list(), REFRESH_MS);
}

// Signing in

function askForToken(wrong) {
  $("sign-in").hidden = false;
  $("drop").hidden = $("jobs").hidden = true;
  $("sign-in-error").textContent = wrong ? "This token is not valid." : "";
  $("token").focus();
}

$("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  rememberToken($("token").value);
  $("token").value = "";
  $("sign-in").hidden = true;
  $("drop").hidden = $("jobs").hidden = false;
  await list(true);
});

// Dropping

$("files").addEventListener("change", () => {
  take([...$("files").files]);
  $("files").value = "";
});
let depth = 0;
for (const kind of ["dragenter", "dragleave", "dragover", "drop"]) {
  addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    depth += { dragenter: 1, dragleave: -1 }[kind] ?? 0;
    if (kind === "drop") {
      depth = 0;
      take([...event.dataTransfer.files]);
    }
    $("drop").classList.toggle("over", depth > 0);
  });
}

function take(files) {
  $("trouble").hidden = true;
  const { image, spine } = settings.pipelines;
  const has = (roles, file) =>
    Object.values(roles).some((role) => role.suffixes.some((end) => file.name.toLowerCase().endsWith(end)));
  const images = files.filter((file) => has(image, file));
  const session = files.filter((file) => !has(image, file) && has(spine, file));
  const others = files.filter((file) => !has(image, file) && !has(spine, file));
  if (others.length) trouble(`${others.map((file) => file.name).join(", ")}: neither an image nor part of a recording.`);
  for (const file of images) waiting.push([card(file.name, file), (on) => submitImage(file, settings, on)]);
  if (session.length) {
    const missing = Object.entries(spine)
      .filter(([, role]) => role.required && !session.some((file) => has({ role }, file)))
      .map(([name]) => ({ sensor_data: "the sensor recording", video_footage: "its video" })[name] ?? name);
    if (missing.length) trouble(`A session needs ${missing.join(" and ")} too. Drop its files together.`);
    else waiting.push([card(session.map((file) => file.name).join(" + ")), (on) => submitSession(session, on)]);
  }
  next();
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = false;
}

function next() {
  while (busy < AT_ONCE && waiting.length) {
    const [shown, submit] = waiting.shift();
    busy += 1;
    follow(shown, submit).finally(() => {
      busy -= 1;
      next();
    });
  }
}

// One card per job of this visit

function card(name, file) {
  const thumb = el("div", { class: "thumb" });
  if (file?.type.startsWith("image/")) {
    const image = el("img", { src: URL.createObjectURL(file), alt: "" });
    image.addEventListener("error", () => image.remove());
    thumb.append(image);
  }
  const state = el("span", { class: "state" }, "Waiting");
  const rest = el("div", { class: "rest" });
  const body = el("div", { class: "body" }, el("div", { class: "title" }, el("span", { class: "name" }, name), state), rest);
  const shown = el("article", { class: file ? "card" : "card wide", "aria-label": name }, thumb, body);
  $("now").prepend(shown);
  return { state, rest, shown };
}

function setState({ state }, status, text) {
  state.className = `state ${status}`;
  state.textContent = text;
}

async function follow(shown, submit) {
  const bar = el("progress", { max: 1, value: 0, "aria-label": "Upload" });
  setState(shown, "uploading", "Uploading");
  shown.rest.replaceChildren(bar);
  try {
    let job = await submit((share) => { bar.value = share; });
    const stages = el("ol", { class: "stages" });
    const cancel = el("button", { class: "quiet" }, "Cancel");
    cancel.addEventListener("click", () => api(job.links.self, { method: "DELETE" }).catch((error) => trouble(error.message)));
    shown.rest.replaceChildren(stages, el("div", { class: "actions" }, cancel));
    for await (job of events(job)) {
      setState(shown, job.status, states[job.status]);
      cancel.hidden = job.status !== "queued";
      if (job.stage && stages.lastChild?.dataset.stage !== job.stage) {
        stages.append(el("li", { "data-stage": job.stage }, job.stage));
      }
      if (job.stage && job.fraction) stages.lastChild.textContent = `${job.stage} ${Math.round(100 * job.fraction)} %`;
    }
    await showAnswer(shown.rest, job);
  } catch (error) {
    setState(shown, "failed", "Not done");
    shown.rest.replaceChildren(el("p", { class: "error" }, error.message));
    if (error.status === 401) askForToken(true);
  }
  list();
}

// Of a job that has ended: what it came to stays said, whatever hinders the showing.
async function showAnswer(rest, job) {
  try {
    rest.replaceChildren(...(await answer(job, settings.max_inline_bytes)));
  } catch (error) {
    rest.replaceChildren(el("p", { class: "error" }, `The results cannot be shown: ${error.message}`));
    if (error.status === 401) askForToken(true);
  }
}

// The list

let seen = "";
let asked = 0;

async function list(afterToken) {
  const mine = ++asked;
  const query = new URLSearchParams({ limit: 50, search: $("search").value });
  if ($("status").value) query.set("status", $("status").value);
  let found;
  try {
    found = await api(`/v1/jobs?${query}`);
  } catch (error) {
    if (error.status === 401) askForToken(afterToken);
    else if (mine === asked) trouble(error.message);
    return;
  }
  const drawn = JSON.stringify(found.jobs) + Math.floor(Date.now() / 60000);
  if (mine !== asked || drawn === seen) return;
  seen = drawn;
  const focused = document.activeElement?.dataset?.job;
  $("list").replaceChildren(...found.jobs.map(line));
  $("none").hidden = found.jobs.length > 0;
  if (focused) $("list").querySelector(`[data-job="${focused}"]`)?.focus();
}

function line(job) {
  const told = job.result?.label ?? job.error?.message ?? (job.note || (job.pipeline === "spine" ? "spinal angles" : ""));
  const at = job.finished_at ?? job.started_at ?? job.submitted_at;
  const button = el(
    "button",
    { class: "line", "data-job": job.job_id },
    el("span", { class: "name" }, job.name ?? job.job_id),
    el("span", { class: "told" }, told),
    el("span", { class: `state ${job.status}` }, states[job.status]),
    el("span", { class: "took" }, job.seconds == null ? "" : duration(job.seconds)),
    el("span", { class: "when" }, at ? ago(new Date(at)) : ""),
  );
  button.addEventListener("click", () => open(job));
  return el("li", {}, button);
}

async function open(job) {
  $("job-name").textContent = job.name ?? job.job_id;
  $("job-body").replaceChildren(el("p", { class: "hint" }, "…"));
  $("job").showModal();
  try {
    const full = await api(job.links.self);
    $("job-body").replaceChildren(...(await answer(full, settings.max_inline_bytes, true)), facts(full));
  } catch (error) {
    $("job-body").replaceChildren(el("p", { class: "error" }, error.message));
  }
}

$("close").addEventListener("click", () => $("job").close());
$("job").addEventListener("click", (event) => event.target === $("job") && $("job").close());

let typing;
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(list, 200);
});
$("status").addEventListener("change", () => list());

function duration(seconds) {
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`;
  return seconds < 90 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds / 60)} min`;
}

function ago(date) {
  const minutes = Math.floor((Date.now() - date) / 60000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)} h ago`;
  return date.toLocaleDateString(undefined, { day: "numeric", month: "short" });
}

begin().catch((error) => trouble(error.message));
