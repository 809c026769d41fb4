// What a job that has ended looks like.
import { api, text } from "/static/api.js";

export const states = {
  queued: "Queued",
  running: "Running",
  retrying: "Trying again",
  succeeded: "Done",
  failed: "Failed",
  given_up: "Given up",
  cancelled: "Cancelled",
};
const AXES = ["flexion", "lateral", "axial"];
const MAX_POINTS = 2000; // of a line; the picture is a third as many pixels wide

export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Elements that show a job's answer; with its input where the page has not got it. `maxInline` is
// the size in bytes up to which the server passes a result file on.
export async function answer(job, maxInline, withInput) {
  if (["queued", "running", "retrying"].includes(job.status)) {
    return [el("p", { class: "hint" }, `${states[job.status]}. ${job.stage} ${job.note}`)];
  }
  if (job.status === "cancelled" || job.status === "given_up") {
    return [el("p", { class: "hint" }, job.note || "It was cancelled before it was run.")];
  }
  const results = await api(job.links.results);
  const shown = [];
  if (job.status === "failed") shown.push(failure(results.error));
  if (job.pipeline === "image") {
    if (withInput) shown.push(el("img", { src: results.inputs[0].url, alt: job.name }));
    if (results.result.top) shown.push(...classes(results.result));
  } else {
    const csv = results.outputs.find((file) => file.name === "angles.csv");
    if (csv) shown.push(...(await angles(job, csv, maxInline)));
    if (results.result.gates?.length) shown.push(quality(results.result));
  }
  shown.push(files(results));
  return shown;
}

function failure(error) {
  return el("p", { class: "error" }, [error.message, error.hint].filter(Boolean).join(" "));
}

function classes({ top }) {
  const rows = top.map(({ label, probability, index }) =>
    el(
      "li",
      { title: `class ${index}` },
      el("span", { class: "label" }, label),
      svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("rect", { width: (100 * probability).toFixed(1), height: 8 })),
      el("span", { class: "share" }, percent(probability)),
    ),
  );
  return [el("p", { class: "answer" }, top[0].label), el("ol", { class: "classes" }, ...rows)];
}

function percent(share) {
  return share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`;
}

// Angles over time, one plot per pair of segments; without a picture the answer is still one.

async function angles(job, file, maxInline) {
  if (file.size > maxInline) {
    const mib = (bytes) => `${Math.ceil(bytes / 2 ** 20)} MiB`;
    return [unplotted(`${file.name} has ${mib(file.size)}, and the page draws up to ${mib(maxInline)}.`)];
  }
  try {
    return plots(await text(`${job.links.results}/files/${file.name}`));
  } catch (error) {
    return [unplotted(`${file.name} cannot be drawn: ${error.message}`)];
  }
}

function unplotted(why) {
  return el("p", { class: "hint" }, `No plots here: ${why} All angles are in the files below.`);
}

function plots(csv) {
  const [head, ...lines] = csv.trim().split("\n").map((one) => one.split(","));
  const column = (name) => head.indexOf(name);
  if (column("time_s") < 0 || !lines.length) throw new Error("it holds no angles.");
  const pairs = new Map();
  for (const line of lines) {
    const pair = `${line[column("caudal")]} – ${line[column("cranial")]}`;
    if (!pairs.has(pair)) pairs.set(pair, []);
    pairs.get(pair).push({
      t: Number(line[column("time_s")]),
      values: AXES.map((axis) => number(line[column(`${axis}_deg`)])),
    });
  }
  const key = el("p", { class: "key" }, ...AXES.map((axis) => el("span", { class: `k-${axis}` }, axis)));
  return [key, el("div", { class: "plots" }, ...[...pairs].map(([pair, rows]) => plot(pair, rows)))];
}

function number(text) {
  return text === "" || text === undefined ? NaN : Number(text);
}

function plot(pair, rows) {
  const [width, height, left, bottom] = [640, 180, 38, 20];
  const extents = AXES.map((_, index) => extent(rows, index));
  const [low, high] = extents.flat().reduce(([least, most], v) => [Math.min(least, v), Math.max(most, v)], [0, 0]);
  const [from, to] = [rows[0].t, rows.at(-1).t];
  const x = (t) => left + ((t - from) / (to - from || 1)) * (width - left - 8);
  const y = (v) => 10 + ((high - v) / (high - low || 1)) * (height - bottom - 16);
  const step = tick(high - low);
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": described(pair, extents) });
  for (let v = Math.ceil(low / step) * step; v <= high; v += step) {
    drawn.append(
      svg("line", { class: "grid", x1: left, x2: width - 8, y1: y(v), y2: y(v) }),
      svg("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, `${Math.round(v)}°`),
    );
  }
  drawn.append(
    svg("text", { x: left, y: height - 5 }, `${from.toFixed(0)} s`),
    svg("text", { x: width - 8, y: height - 5, "text-anchor": "end" }, `${to.toFixed(0)} s`),
  );
  AXES.forEach((axis, index) => {
    let path = "";
    let pen = "M";
    for (const row of thinned(rows, index)) {
      if (!Number.isFinite(row.values[index])) {
        pen = "M"; // a gap stays a gap
        continue;
      }
      path += `${pen}${x(row.t).toFixed(1)} ${y(row.values[index]).toFixed(1)}`;
      pen = "L";
    }
    drawn.append(svg("path", { class: axis, d: path }));
  });
  return el("figure", { class: "plot" }, el("figcaption", {}, el("b", {}, pair)), drawn);
}

function tick(range) {
  return [1, 2, 5, 10, 20, 50, 100].find((step) => range / step <= 5) ?? 200;
}

// The least and the greatest of an axis; nothing where it is unknown throughout.
function extent(rows, index) {
  let [low, high] = [Infinity, -Infinity];
  for (const { values } of rows) {
    if (values[index] < low) low = values[index];
    if (values[index] > high) high = values[index];
  }
  return low <= high ? [low, high] : [];
}

// As many rows as a line may have: of each short run of rows the lowest and the highest, so that
// no peak is lost. A gap as long as a run stays a gap; shorter ones are less than a pixel.
function thinned(rows, index) {
  if (rows.length <= MAX_POINTS) return rows;
  const runs = MAX_POINTS / 2;
  const kept = [];
  for (let run = 0; run < runs; run += 1) {
    const from = Math.floor((run * rows.length) / runs);
    const to = Math.floor(((run + 1) * rows.length) / runs);
    let [lowest, highest] = [-1, -1];
    for (let i = from; i < to; i += 1) {
      const value = rows[i].values[index];
      if (!Number.isFinite(value)) continue;
      if (lowest < 0 || value < rows[lowest].values[index]) lowest = i;
      if (highest < 0 || value > rows[highest].values[index]) highest = i;
    }
    if (lowest < 0) kept.push(rows[from]);
    else kept.push(...[...new Set([lowest, highest])].sort((a, b) => a - b).map((i) => rows[i]));
  }
  return kept;
}

function described(pair, extents) {
  const ranges = AXES.map((axis, index) => {
    const [low, high] = extents[index];
    if (low === undefined) return `${axis} unknown`;
    return `${axis} from ${low.toFixed(0)} to ${high.toFixed(0)} degrees`;
  });
  return `Angles of ${pair} over time: ${ranges.join(", ")}`;
}

function quality({ gates, time_offset_s: offset }) {
  const rows = gates.map((gate) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, gate.name.replaceAll("_", " ")),
      el("td", { class: "number" }, `${short(gate.value)} ${gate.unit ?? ""}`),
      el("td", { class: "number" }, `limit ${short(gate.limit)} ${gate.unit ?? ""}`),
      el("td", { class: gate.passed ? "number" : "number no" }, gate.passed ? "passed" : "failed"),
    ),
  );
  return el("div", {}, el("h3", {}, `Quality · time offset ${short(1000 * offset)} ms`), el("table", {}, el("tbody", {}, ...rows)));
}

function short(value) {
  return typeof value === "number" ? Number(value.toPrecision(3)).toString() : String(value ?? "–");
}

function files(results) {
  const links = results.outputs.map((file) => {
    const link = el("a", { href: file.url, target: "_blank", rel: "noopener" }, file.name);
    return link;
  });
  links.sort((a, b) => (b.textContent === "report.html") - (a.textContent === "report.html"));
  return el("div", { class: "actions" }, ...links);
}

// Everything else that is known of a job
export function facts(job) {
  const stages = Object.entries(job.timings_s).map(([stage, seconds]) => `${stage} ${seconds.toFixed(2)} s`);
  const rows = [
    ["Status", states[job.status]],
    ["Job", job.job_id],
    ["Sent", job.submitted_at && new Date(job.submitted_at).toLocaleString()],
    ["Took", job.seconds != null && `${job.seconds} s`],
    ["Stages", stages.join(" · ")],
    ["Worker", job.worker],
  ].filter(([, value]) => value);
  return el("table", {}, el("tbody", {}, ...rows.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value)))));
}
