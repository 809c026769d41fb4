// From files to a job: images through the server, sessions straight into S3.
import { Problem, api, send } from "/static/api.js";

export async function submitImage(file, settings, onShare) {
  if (file.size > settings.max_body_bytes) {
    throw new Problem(413, `Images of at most ${Math.floor(settings.max_body_bytes / 2 ** 20)} MiB are taken.`);
  }
  const form = new FormData();
  form.append("image", file, file.name);
  return JSON.parse(await send("/v1/images", form, onShare, true));
}

export async function submitSession(files, onShare) {
  const plan = await api("/v1/uploads", json({
    pipeline: "spine",
    files: files.map((file) => ({ filename: file.name, size: file.size })),
  }));
  const total = files.reduce((sum, file) => sum + file.size, 0);
  let before = 0;
  for (const target of plan.files) {
    const file = files.find((one) => one.name === target.filename);
    await upload(target, file, (share) => onShare((before + share * file.size) / total));
    before += file.size;
  }
  return api("/v1/jobs", json(plan.job));
}

async function upload(target, file, onShare) {
  const form = new FormData();
  for (const [name, value] of Object.entries(target.fields)) form.append(name, value);
  form.append("file", file);
  try {
    await send(target.url, form, onShare);
  } catch (error) {
    if (error.status) throw new Problem(error.status, `${file.name} was refused by S3 (${error.status}).`);
    // A bucket without a CORS rule lets pages send, but neither watch nor read the answer.
    // Whether it came is known as soon as the job is asked for.
    await fetch(target.url, { method: "POST", body: form, mode: "no-cors" });
    onShare(1);
  }
}

function json(body) {
  return { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
}
