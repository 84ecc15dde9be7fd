"use strict";

const part = (id) => document.getElementById(id);
let asked = 0;
let needsPlace = false;
let waiting = null;
let waitingName = "";

function say(text, isError) {
  part("status").textContent = text;
  part("status").className = isError ? "error" : "";
}

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

function label(name) {
  if (name.startsWith("corrected_")) return `${name.slice(10)}, corrected for the choice`;
  return name.startsWith("cv_") ? `${name}, as found` : name.replaceAll("_", " ");
}

async function read(response) {
  const content = await response.json();
  if (!response.ok) throw new Error(content.error);
  return content;
}

function take(file, name) {
  if (needsPlace) askWhere(file, name);
  else ask(file, name);
}

function askWhere(file, name) {
  ++asked;
  waiting = file;
  waitingName = name;
  part("answer").hidden = true;
  part("box").hidden = true;
  const picture = part("original");
  picture.onload = () => {
    part("place").hidden = false;
    say("", false);
  };
  picture.onerror = () => {
    part("place").hidden = true;
    say("This browser cannot show the file, so that no box can be drawn; convert it to PNG.", true);
  };
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(file);
}

function drawPlace() {
  const ground = part("ground"), picture = part("original"), box = part("box");
  let from = null;
  const place = (event) => {
    const area = picture.getBoundingClientRect();
    const share = (value, low, size) => Math.min(Math.max((value - low) / size, 0), 1);
    return [share(event.clientX, area.left, area.width), share(event.clientY, area.top, area.height)];
  };
  const spanned = (to) => [0, 1].map((axis) => [Math.min(from[axis], to[axis]), Math.abs(to[axis] - from[axis])]);
  const paint = (to) => {
    const [[left, width], [top, height]] = spanned(to);
    Object.assign(box.style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * width}%`, height: `${100 * height}%` });
    box.hidden = false;
  };
  ground.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    from = place(event);
    ground.setPointerCapture(event.pointerId);
    paint(from);
  });
  ground.addEventListener("pointermove", (event) => {
    if (from) paint(place(event));
  });
  ground.addEventListener("pointerup", (event) => {
    if (!from) return;
    const [[left, width], [top, height]] = spanned(place(event));
    from = null;
    const across = picture.naturalWidth, down = picture.naturalHeight;
    if (width * across < 4 || height * down < 4) {
      say("The box is too small; press at one corner of the lesion and drag to the opposite one.", true);
      return;
    }
    const x = Math.floor(left * across), y = Math.floor(top * down);
    const size = [Math.min(Math.ceil(width * across), across - x), Math.min(Math.ceil(height * down), down - y)];
    ask(waiting, waitingName, [x, y, ...size]);
  });
}

async function ask(file, name, box) {
  const mine = ++asked;
  part("answer").hidden = true;
  part("announcement").textContent = "";
  say(`Looking at ${name} …`, false);
  try {
    const answer = await read(await fetch(`/predict?explain=1${box ? `&box=${box.join(",")}` : ""}`, { method: "POST", body: file }));
    if (mine !== asked) return;
    show(answer, name);
    say("", false);
  } catch (error) {
    if (mine === asked) say(`${name}: ${error.message}`, true);
  }
}

/* What a screen reader says: the verdict, then the doubts; the rest can be read on the page. */
function announce(answer, name) {
  const doubts = [answer.out_of_distribution.unlike ? answer.out_of_distribution.text : "", answer.sealed.text || ""];
  part("announcement").textContent = [`${name}: ${answer.verdict.text}`, ...doubts, ...answer.file_notes].filter(Boolean).join(" ");
}

function show(answer, name) {
  const like = answer.out_of_distribution;
  part("name").textContent = name;
  part("unlike").hidden = !like.unlike;
  part("unlike").textContent = like.text;
  part("sealed").hidden = !answer.sealed.text;
  part("sealed").textContent = answer.sealed.text || "";
  part("notes").hidden = !answer.file_notes.length;
  part("notes").textContent = answer.file_notes.join(" ");
  part("familiar").textContent = like.unlike ? `No. ${like.text}` : like.text;
  part("verdict").textContent = answer.verdict.text;
  part("limits").textContent = answer.verdict.limits;
  part("image").src = answer.image;
  part("occlusion").textContent = answer.occlusion.text;
  const overlay = part("overlay");
  if (answer.occlusion.overlay) overlay.src = answer.occlusion.overlay;
  else overlay.removeAttribute("src");
  showOverlay();
  const rows = Object.entries(answer.probabilities).map(([name, share]) => {
    const row = element("div");
    row.className = "bar";
    const bar = element("progress");
    bar.value = share;
    bar.setAttribute("aria-label", name);
    row.append(element("span", name), bar, element("span", `${(100 * share).toFixed(1)} %`));
    return row;
  });
  part("probabilities").replaceChildren(...rows);
  part("answer").hidden = false;
  announce(answer, name);
}

function showOverlay() {
  const overlay = part("overlay");
  overlay.hidden = !(part("toggle").checked && overlay.hasAttribute("src"));
}

async function choose(index, name) {
  take(await (await fetch(`/examples/${index}.png`)).blob(), `simulated example ${index + 1} (${name})`);
}

function showModel(model) {
  part("simulated").hidden = !model.simulated;
  part("tested").textContent = model.sealed_test.text;
  needsPlace = model.region !== "image";
  const rows = [
    ["model", `${model.name}, version ${model.version}`],
    ["study", model.study],
    ["trained on", model.dataset],
    ["classes", model.class_names.join(", ")],
    ...Object.entries(model.figures).map(([name, value]) => [label(name), value]),
  ];
  part("model").replaceChildren(...rows.map(([name, value]) => {
    const row = element("tr");
    row.append(element("th", name), element("td", value));
    return row;
  }));
  part("examples").replaceChildren(...model.examples.map((name, index) => {
    const button = element("button");
    const picture = element("img");
    picture.src = `/examples/${index}.png`;
    picture.alt = "";
    button.append(picture, name);
    button.addEventListener("click", () => choose(index, name));
    return button;
  }));
}

function takeFrom(transfer, otherwise) {
  const file = transfer && transfer.files[0];
  if (file) take(file, file.name || "pasted image");
  else say(otherwise, true);
}

async function start() {
  part("address").textContent = `${location.origin}/predict`;
  const drop = part("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") takeFrom(event.dataTransfer, "There is no file in what was dropped; drop an image file.");
    });
  }
  document.addEventListener("paste", (event) => {
    event.preventDefault();
    takeFrom(event.clipboardData, "There is no image on the clipboard; copy an image, or a file, and paste again.");
  });
  part("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) take(file, file.name);
    event.target.value = "";
  });
  part("toggle").addEventListener("change", showOverlay);
  drawPlace();
  let model;
  try {
    model = await read(await fetch("/model"));
    showModel(model);
  } catch (error) {
    say(error.message, true);
  }
  const wanted = /^#example=(\d+)$/.exec(location.hash);
  if (model && wanted) choose(Number(wanted[1]), model.examples[Number(wanted[1])]);
}

start();
