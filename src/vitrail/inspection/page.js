
// The views that follow the mouse. Texts of strangers are never touched here: the page's own words and numbers alone.
(() => {
  "use strict";
  const block = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = block("page-data");
  const SIDE = 640; // pixels of the longer side of a drawn picture
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`;

  function element(kind, text) {
    const made = document.createElement(kind);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function say(place, lines) {
    place.replaceChildren(...lines.filter(Boolean).map((line) => element("p", line)));
  }

  // Values of a grid -> a canvas of one pixel a value; `colour(i)` gives red, green, blue
  function painted([rows, columns], colour, canvas = element("canvas")) {
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    for (let i = 0; i < rows * columns; i++) image.data.set([...colour(i), 255], 4 * i);
    context.putImageData(image, 0, 0);
    return canvas;
  }

  function rampColour(share) {
    const at = 3 * Math.round(255 * clamp(share, 0, 1));
    return [data.ramp[at], data.ramp[at + 1], data.ramp[at + 2]];
  }

  // From the lowest to the 99th percentile: few patches are far above all others, and would leave the rest dark
  function heat(values) {
    const sorted = Float64Array.from(values).sort();
    const place = (data.strongest / 100) * (sorted.length - 1), below = Math.floor(place);
    let high = sorted[below];
    if (below + 1 < sorted.length) high += (sorted[below + 1] - high) * (place - below);
    const low = sorted[0];
    if (!(high > low)) high = sorted[sorted.length - 1];
    return (i) => rampColour(high > low ? (values[i] - low) / (high - low) : 0);
  }

  // Calls `move(row, column, how)` for the cell under the mouse (hover, click), the finger or the arrow keys (put)
  function follow(canvas, grid, current, move) {
    let pressed = false;
    const cell = (event) => {
      const box = canvas.getBoundingClientRect();
      const row = Math.floor(((event.clientY - box.top) / box.height) * grid[0]);
      const column = Math.floor(((event.clientX - box.left) / box.width) * grid[1]);
      return [clamp(row, 0, grid[0] - 1), clamp(column, 0, grid[1] - 1)];
    };
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse" || pressed) move(...cell(event), event.pointerType === "mouse" ? "hover" : "put");
    });
    canvas.addEventListener("pointerdown", (event) => {
      pressed = true;
      move(...cell(event), event.pointerType === "mouse" ? "click" : "put");
    });
    for (const kind of ["pointerup", "pointercancel", "pointerleave"]) canvas.addEventListener(kind, () => { pressed = false; });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const [row, column] = current();
      move(clamp(row + step[0], 0, grid[0] - 1), clamp(column + step[1], 0, grid[1] - 1), "put");
    });
  }

  function live(root, number) {
    const picture = data.pictures[number];
    const [rows, columns] = picture.grid;
    const count = rows * columns;
    const find = (selector) => root.querySelector(selector);
    const image = document.getElementById(`picture-${number}-image`);
    const state = { row: picture.start[0], column: picture.start[1], held: false, layers: new Map(), waiting: false };
    const patch = () => state.row * columns + state.column;
    const features = picture.features ? codesOf(block(`picture-${number}-features`).codes) : null;
    const colours = picture.features ? bytesOf(block(`picture-${number}-colours`).codes) : null;
    const norms = picture.depth ? floatsOf(block(`picture-${number}-norms`).values) : null;

    function layer() {
      const index = Number(find(".layer").value);
      if (!state.layers.has(index)) {
        if (state.layers.size > 3) state.layers.delete(state.layers.keys().next().value); // a large picture's are large
        const tokens = picture.prefix + count;
        state.layers.set(index, openLayer(block(`picture-${number}-layer-${index}`), picture.heads, tokens, picture.width));
      }
      return state.layers.get(index);
    }

    const name = (token) => token < picture.prefix
      ? data.prefix[token] || `token ${token}`
      : `(${Math.floor((token - picture.prefix) / columns)}, ${(token - picture.prefix) % columns})`;

    function draw(canvas, cells, opacity, marked) {
      const scale = SIDE / Math.max(...picture.size);
      const [height, width] = picture.size.map((side) => Math.max(1, Math.round(side * scale)));
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = !picture.small;
      context.globalAlpha = 1;
      context.filter = "grayscale(1)";
      context.drawImage(image, 0, 0, width, height);
      context.filter = "none";
      context.imageSmoothingEnabled = find(".smooth").checked;
      context.globalAlpha = opacity;
      context.drawImage(cells, 0, 0, width, height);
      context.globalAlpha = 1;
      if (!marked) return;
      const box = [state.column * width / columns, state.row * height / rows, width / columns, height / rows];
      context.lineWidth = 5;
      context.strokeStyle = "#000";
      context.strokeRect(...box);
      context.lineWidth = 2.5;
      context.strokeStyle = "#7df9ff";
      context.strokeRect(...box);
    }

    function place() {
      const [height, width] = picture.size;
      const top = Math.round(state.row * height / rows), left = Math.round(state.column * width / columns);
      const bottom = Math.round((state.row + 1) * height / rows) - 1, right = Math.round((state.column + 1) * width / columns) - 1;
      return `Patch (${state.row}, ${state.column})${state.held ? " (held)" : ""}: ${picture.depth ? `token ${picture.prefix + patch()}, ` : ""}rows ${top}–${bottom} and columns ${left}–${right} of the pixels.`;
    }

    function drawAttention() {
      const open = layer();
      const kind = root.querySelector("fieldset input:checked").value;
      const heads = attentionOf(open, kind === "mean" ? "mean" : kind === "class" ? 0 : picture.prefix + patch());
      const mean = meanOf(heads);
      const choice = find(".head-choice").value;
      const shown = choice === "mean" ? mean : heads[Number(choice)];
      const patches = shown.subarray(picture.prefix);
      draw(find("canvas.attention"), painted(picture.grid, heat(patches)), find(".opacity").value / 100, kind === "patch");
      const order = Array.from(shown.keys()).sort((a, b) => shown[b] - shown[a]).slice(0, 5);
      const onPatches = patches.reduce((sum, weight) => sum + weight, 0);
      say(find(".attention-said"), [
        kind === "patch" ? place() : kind === "class" ? "The class token: token 0." : "The mean of the attention of all patches.",
        `Largest weights: ${order.map((token) => `${name(token)} ${percent(shown[token])}`).join(" · ")}. Evenly spread, each would be ${percent(1 / shown.length)}.`,
        picture.prefix ? `${percent(Math.max(0, 1 - onPatches))} goes to tokens that are no patches (${(data.prefix.length > 3 ? [...data.prefix.slice(0, 2), "…"] : data.prefix).join(", ")}).` : "",
      ]);
      [mean, ...heads].forEach((row, i) => {
        const button = find(".heads").children[i];
        painted(picture.grid, heat(row.subarray(picture.prefix)), button.firstChild);
        button.setAttribute("aria-pressed", String(choice === (i === 0 ? "mean" : String(i - 1))));
      });
    }

    function drawSecond() {
      const canvas = find("canvas.second"), words = find(".second-said"), choice = find(".second-choice").value;
      if (choice === "alike") {
        const cosines = cosinesWith(features, picture.features, patch());
        const order = Array.from(cosines.keys()).filter((i) => i !== patch()).sort((a, b) => cosines[b] - cosines[a]);
        draw(canvas, painted(picture.grid, heat(cosines)), data.cover, true);
        const told = (i) => `${name(picture.prefix + i)} ${cosines[i].toFixed(2)}`;
        say(words, [
          picture.layers ? "" : place(),
          order.length ? `Most alike: ${order.slice(0, 4).map(told).join(" · ")}. Least: ${told(order[order.length - 1])}.` : "",
        ]);
      } else if (choice === "colours") {
        draw(canvas, painted(picture.grid, (i) => colours.subarray(3 * i, 3 * i + 3)), 0.85, true);
        say(words, [picture.layers ? "" : place(), "Patches of one colour have much the same features."]);
      } else {
        const depth = Number(find(".layer").value), tokens = picture.prefix + count;
        const lengths = norms.subarray(depth * tokens, (depth + 1) * tokens), patches = lengths.subarray(picture.prefix);
        draw(canvas, painted(picture.grid, heat(patches)), data.cover, true);
        const before = Array.from(lengths.subarray(0, picture.prefix), (v, i) => `${name(i)} ${v.toPrecision(3)}`);
        say(words, [
          `This patch: ${patches[patch()].toPrecision(3)}. All patches: ${Math.min(...patches).toPrecision(3)} to ${Math.max(...patches).toPrecision(3)}.`,
          before.length ? `Before the patches: ${before.slice(0, 5).join(" · ")}${before.length > 5 ? " …" : ""}.` : "",
        ]);
      }
    }

    function drawAll() {
      state.waiting = false;
      const at = find(".layer");
      if (at) find(".layer-said").textContent = `${at.value} (0 to ${at.max})`;
      if (picture.layers) drawAttention();
      if (picture.features || picture.depth) drawSecond();
    }

    function redraw() {
      if (state.waiting) return;
      state.waiting = true;
      requestAnimationFrame(drawAll);
    }

    function move(row, column, how) {
      if (how === "hover" && state.held) return;
      if (how === "click") state.held = !(state.held && state.row === row && state.column === column);
      Object.assign(state, { row, column });
      redraw();
    }

    for (const canvas of root.querySelectorAll("canvas.main")) {
      follow(canvas, picture.grid, () => [state.row, state.column], move);
    }
    for (let i = 0; picture.layers && i <= picture.heads; i++) {
      const button = element("button");
      button.type = "button";
      button.append(element("canvas"), i === 0 ? "mean" : `head ${i - 1}`);
      button.addEventListener("click", () => {
        find(".head-choice").value = i === 0 ? "mean" : String(i - 1);
        redraw();
      });
      find(".heads").append(button);
    }
    root.addEventListener("input", redraw);
    root.addEventListener("change", redraw);
    // below the fold nothing is decoded before it is needed
    const seen = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      seen.disconnect();
      image.decode().then(redraw, redraw);
    }, { rootMargin: "300px" });
    seen.observe(root);
  }

  function positions(root, number) {
    const { grid: [rows, columns], stride, low, high } = data.positions[number];
    const codes = bytesOf(block(`positions-${number}`).codes);
    const shown = [Math.ceil(rows / stride), Math.ceil(columns / stride)];
    const all = root.querySelector("canvas.all"), one = root.querySelector("canvas.one");
    const zoom = Math.max(1, Math.round(SIDE / (shown[1] * (columns + 1))));
    const state = { row: Math.floor(shown[0] / 2), column: Math.floor(shown[1] / 2) };
    const values = (row, column) => {
      const start = (row * shown[1] + column) * rows * columns;
      return codes.subarray(start, start + rows * columns);
    };
    const paint = (row, column, canvas) => {
      const own = values(row, column);
      return painted([rows, columns], (i) => rampColour(own[i] / 255), canvas);
    };
    const step = [zoom * rows + 2, zoom * columns + 2];
    all.width = shown[1] * step[1];
    all.height = shown[0] * step[0];
    const context = all.getContext("2d");
    context.imageSmoothingEnabled = false;
    const tile = element("canvas");
    for (let row = 0; row < shown[0]; row++) {
      for (let column = 0; column < shown[1]; column++) {
        context.drawImage(paint(row, column, tile), column * step[1] + 1, row * step[0] + 1, zoom * columns, zoom * rows);
      }
    }
    const untouched = element("canvas");
    Object.assign(untouched, { width: all.width, height: all.height }).getContext("2d").drawImage(all, 0, 0);

    function show() {
      const { row, column } = state;
      context.drawImage(untouched, 0, 0);
      context.lineWidth = Math.max(2, all.width / 260);
      context.strokeStyle = "#00b7c4";
      context.strokeRect(column * step[1], row * step[0], step[1], step[0]);
      paint(row, column, one);
      const own = values(row, column), at = [row * stride, column * stride], self = at[0] * columns + at[1];
      let best = -1;
      for (let i = 0; i < own.length; i++) if (i !== self && (best < 0 || own[i] > own[best])) best = i;
      const value = best < 0 ? 0 : low + (own[best] / 255) * (high - low);
      root.querySelector(".one-said").textContent = `Position (${at[0]}, ${at[1]})` +
        (best < 0 ? "" : `; most like it: (${Math.floor(best / columns)}, ${best % columns}), ${value.toFixed(2)}`);
    }

    follow(all, shown, () => [state.row, state.column], (row, column) => {
      if (row === state.row && column === state.column) return;
      Object.assign(state, { row, column });
      show();
    });
    show();
  }

  document.documentElement.classList.add("scripted");
  document.querySelectorAll(".live").forEach((root) => live(root, Number(root.dataset.picture)));
  document.querySelectorAll(".position").forEach((root) => positions(root, Number(root.dataset.positions)));
})();
