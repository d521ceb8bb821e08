// The run that makes the avatar, while it grows: stage, time left, loss, text and photo.

import { byId, makeSvg } from "./dom.js";

/** run: the field `run` of the server's state, null where nothing grows. */
export function showRun(run) {
  const box = byId("run");
  if (!run) {
    box.hidden = true;
    return;
  }
  if (box.hidden) {
    box.hidden = false;
    box.open = innerWidth >= 720;
  }
  const growing = run.status === "running";
  const counted = growing && run.steps > 0;
  byId("run-stage").textContent = growing ? run.stage || "Loading" : STATUS[run.status];
  byId("run-eta").textContent = counted ? `${run.step}/${run.steps}${left(run.remaining_seconds)}` : "";
  byId("run-progress").value = counted ? run.step / run.steps : growing ? 0 : 1;
  byId("run-prompt").textContent = run.text;
  const photo = byId("run-photo");
  photo.hidden = !run.photo;
  if (run.photo && !photo.src) photo.src = "photo.png";
  drawLosses(run.losses);
}

export function runIsLost() {
  if (byId("run").hidden) return;
  byId("run-stage").textContent = "No answer";
  byId("run-eta").textContent = "";
}

const STATUS = { finished: "Finished", stopped: "Stopped", failed: "Failed" };

function left(seconds) {
  if (seconds === null) return "";
  const whole = Math.round(seconds);
  const clock = whole < 3600
    ? `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`
    : `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return ` · ${clock} left`;
}

/**
 * losses: [{stage, steps, values}], one stage after the other, drawn side by side with a scale of its own each:
 * losses of different stages are different sums.
 */
function drawLosses(losses) {
  const chart = byId("loss");
  const { width, height } = chart.viewBox.baseVal;
  chart.replaceChildren();
  const total = losses.reduce((sum, { values }) => sum + values.length, 0);
  chart.closest("figure").hidden = total < 2;
  let left = 0;
  for (const { stage, values } of losses) {
    const share = (width * values.length) / total;
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const points = values.map((value, index) => {
      const x = left + (share * (index + 0.5)) / values.length;
      const y = height - 6 - ((height - 12) * (value - low)) / (high - low || 1);
      return `${x.toFixed(1)} ${y.toFixed(1)}`;
    });
    const line = makeSvg("path", { d: `M${points.join("L")}` });
    const name = makeSvg("title");
    name.textContent = stage;
    line.append(name);
    chart.append(line);
    left += share;
    if (left < width - 1) chart.append(makeSvg("line", { x1: left, x2: left, y1: 0, y2: height }));
  }
  const last = losses.at(-1)?.values.at(-1);
  byId("loss-value").textContent = last === undefined ? "" : last.toPrecision(4);
}
