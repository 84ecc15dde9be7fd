"use strict";

const part = (id) => document.getElementById(id);
let asked = 0;

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

async function ask(file) {
  const mine = ++asked;
  part("answer").hidden = true;
  say("Looking at the image …", false);
  try {
    const answer = await read(await fetch("/predict?explain=1", { method: "POST", body: file }));
    if (mine !== asked) return;
    show(answer);
    say("", false);
  } catch (error) {
    if (mine === asked) say(error.message, true);
  }
}

function show(answer) {
  part("unlike").hidden = !answer.familiarity.unlike;
  part("unlike").textContent = answer.familiarity.text;
  part("sealed").hidden = !answer.sealed.text;
  part("sealed").textContent = answer.sealed.text || "";
  part("notes").hidden = !answer.file_notes.length;
  part("notes").textContent = answer.file_notes.join(" ");
  part("familiar").textContent = answer.familiarity.unlike
    ? "No: see the warning above." : answer.familiarity.text;
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
}

function showOverlay() {
  const overlay = part("overlay");
  overlay.hidden = !(part("toggle").checked && overlay.hasAttribute("src"));
}

async function choose(index) {
  ask(await (await fetch(`/examples/${index}.png`)).blob());
}

function showModel(model) {
  part("simulated").hidden = !model.simulated;
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
    button.addEventListener("click", () => choose(index));
    return button;
  }));
}

async function start() {
  part("address").textContent = `${location.origin}/predict`;
  const drop = part("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) ask(event.dataTransfer.files[0]);
    });
  }
  part("file").addEventListener("change", (event) => {
    if (event.target.files.length) ask(event.target.files[0]);
    event.target.value = "";
  });
  part("toggle").addEventListener("change", showOverlay);
  try {
    showModel(await read(await fetch("/model")));
  } catch (error) {
    say(error.message, true);
  }
  const wanted = /^#example=(\d+)$/.exec(location.hash);
  if (wanted) choose(Number(wanted[1]));
}

start();
