"use strict";
// Draws the figures when they come near the screen, switches light and dark, and runs the table of trials. No dependency but Plotly.
(function () {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const DARK = { "#1b1f24": "#e8eaed", "#6b7280": "#a3abb6", "#e3e6ea": "#2c323a",
    "#3558a8": "#7393e6", "#7d3c78": "#c184bd", "#2f6db3": "#5f9fe3", "#b23a48": "#e0717d" };
  const plots = Array.from(document.querySelectorAll(".plot"));
  let printing = false;

  function isDark() { return !printing && root.dataset.theme === "dark"; }

  function specification(plot) {
    let text = document.getElementById(plot.dataset.source).textContent;
    if (isDark()) for (const [from, to] of Object.entries(DARK)) text = text.split(from).join(to);
    return JSON.parse(text);
  }

  function startLibrary() {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("library").textContent;
    document.head.appendChild(script);
  }

  function draw(plot) {
    startLibrary();
    const spec = specification(plot);
    const config = { responsive: true, displayModeBar: false };
    spec.layout.hoverlabel = Object.assign({}, spec.layout.hoverlabel, isDark() ? { bgcolor: "#2a2f37", bordercolor: "#596270", font: { color: "#e8eaed", size: 12 } }
      : { bgcolor: "#ffffff", bordercolor: "#9aa1ab", font: { color: "#1b1f24", size: 12 } });
    plot.style.height = spec.layout.height + "px";
    Plotly.react(plot, spec.data, spec.layout, config);
    plot.dataset.drawn = isDark() ? "dark" : "light";
  }

  function drawAll() { for (const plot of plots) if (plot.dataset.drawn !== (isDark() ? "dark" : "light")) draw(plot); }

  const near = new IntersectionObserver(function (entries) {
    for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); if (!entry.target.dataset.drawn) draw(entry.target); }
  }, { rootMargin: "600px 0px" });
  plots.forEach((plot) => near.observe(plot));
  // The rest is drawn while nothing else happens, so that searching in the page and printing find every figure.
  const idle = window.requestIdleCallback || ((f) => setTimeout(f, 50));
  function drawRest() {
    const next = plots.find((plot) => !plot.dataset.drawn);
    if (next) { draw(next); idle(drawRest); } else { root.dataset.ready = "yes"; }
  }
  window.addEventListener("load", () => idle(drawRest));

  const toggle = document.getElementById("theme");
  function setTheme(theme) {
    root.dataset.theme = theme;
    toggle.setAttribute("aria-pressed", String(theme === "dark"));
    toggle.textContent = theme === "dark" ? "Light" : "Dark";
    for (const plot of plots) if (plot.dataset.drawn && plot.dataset.drawn !== theme) draw(plot);
  }
  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  setTheme(preferred.matches ? "dark" : "light");
  let chosen = false;
  preferred.addEventListener("change", (event) => { if (!chosen) setTheme(event.matches ? "dark" : "light"); });
  toggle.addEventListener("click", () => { chosen = true; setTheme(root.dataset.theme === "dark" ? "light" : "dark"); });

  // Print is light, with every figure drawn and wide ones scaled to the paper.
  const PAPER = 690;
  window.addEventListener("beforeprint", function () {
    printing = true;
    root.dataset.before = root.dataset.theme;
    root.dataset.theme = "light";
    drawAll();
    for (const plot of plots) {
      const width = plot.getBoundingClientRect().width;
      plot.style.width = width + "px";
      plot.style.zoom = width > PAPER ? String(PAPER / width) : "";
    }
  });
  window.addEventListener("afterprint", function () {
    printing = false;
    for (const plot of plots) { plot.style.zoom = ""; plot.style.width = ""; }
    setTheme(root.dataset.before || "light");
  });

  function save(name, type, text) {
    const link = document.createElement("a");
    const url = URL.createObjectURL(new Blob([text], { type: type }));
    link.href = url;
    link.download = name;
    document.body.appendChild(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }
  document.addEventListener("click", function (event) {
    const button = event.target.closest("button[data-image], button[data-csv]");
    if (!button) return;
    if (button.dataset.csv) { save(button.dataset.csv + ".csv", "text/csv", JSON.parse(document.getElementById("csv-" + button.dataset.source).textContent)); return; }
    const plot = document.getElementById(button.dataset.source);
    if (!plot.dataset.drawn) draw(plot);
    const box = plot.getBoundingClientRect();
    // White paper behind it, as figures leave the page for other documents.
    const spec = (printing = true, specification(plot));
    printing = false;
    spec.layout.paper_bgcolor = "#ffffff";
    spec.layout.width = Math.round(box.width);
    Plotly.downloadImage({ data: spec.data, layout: spec.layout }, { format: button.dataset.image, filename: plot.dataset.slug, width: spec.layout.width, height: spec.layout.height, scale: button.dataset.image === "png" ? 3 : 1 });
  });

  // The table of trials.
  const table = document.getElementById("trials");
  if (!table || !data.trials) return;
  const PAGE = 100;
  const columns = data.trials.columns;
  const rows = data.trials.rows.map((cells, i) => ({ cells: cells, order: i, text: cells.map((c) => (c === null ? "" : String(c))).join("\u0001").toLowerCase() }));
  const search = document.getElementById("filter"), state = document.getElementById("state"), count = document.getElementById("count"), more = document.getElementById("more");
  const stateColumn = columns.findIndex((c) => c.name === "state");
  let sortBy = -1, direction = 1, shown = PAGE, view = rows;

  function text(value) { return value === null || value === undefined ? "" : String(value); }
  function compare(a, b) {
    const x = a.cells[sortBy], y = b.cells[sortBy];
    if (x === null || x === undefined) return y === null || y === undefined ? a.order - b.order : 1;
    if (y === null || y === undefined) return -1;
    const difference = typeof x === "number" && typeof y === "number" ? x - y : text(x).localeCompare(text(y), "en", { numeric: true });
    return difference === 0 ? a.order - b.order : difference * direction;
  }
  function refresh() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean), wanted = state.value;
    view = rows.filter((row) => (!wanted || row.cells[stateColumn] === wanted) && words.every((word) => row.text.includes(word)));
    if (sortBy >= 0) view.sort(compare);
    const body = document.createElement("tbody");
    for (const row of view.slice(0, shown)) {
      const line = document.createElement("tr");
      line.tabIndex = 0;
      line.dataset.row = row.order;
      line.setAttribute("aria-expanded", "false");
      columns.forEach(function (column, i) {
        const cell = document.createElement("td");
        if (column.numeric) cell.className = "num";
        cell.textContent = column.numeric && typeof row.cells[i] === "number" && column.digits !== null ? row.cells[i].toFixed(column.digits) : text(row.cells[i]);
        line.appendChild(cell);
      });
      line.title = data.trials.recipes[row.order] || "";
      body.appendChild(line);
    }
    table.tBodies[0].replaceWith(body);
    count.textContent = (view.length === rows.length ? rows.length + " trials" : view.length + " of " + rows.length + " trials") + (view.length > shown ? ", first " + shown + " shown" : "");
    more.hidden = view.length <= shown;
  }
  function expand(line) {
    if (line.nextElementSibling && line.nextElementSibling.className === "detail") { line.nextElementSibling.remove(); line.setAttribute("aria-expanded", "false"); return; }
    const detail = document.createElement("tr"), cell = document.createElement("td"), list = document.createElement("dl");
    detail.className = "detail";
    cell.colSpan = columns.length;
    for (const [name, value] of data.trials.details[Number(line.dataset.row)]) {
      const term = document.createElement("dt"), description = document.createElement("dd");
      term.textContent = name;
      description.textContent = value;
      list.append(term, description);
    }
    cell.appendChild(list);
    detail.appendChild(cell);
    line.after(detail);
    line.setAttribute("aria-expanded", "true");
  }
  const head = document.createElement("tr");
  columns.forEach(function (column, i) {
    const cell = document.createElement("th"), button = document.createElement("button");
    cell.scope = "col";
    cell.setAttribute("aria-sort", "none");
    if (column.numeric) cell.className = "num";
    button.type = "button";
    button.textContent = column.title;
    button.addEventListener("click", function () {
      direction = sortBy === i ? -direction : 1;
      sortBy = i;
      head.querySelectorAll("th").forEach((other, j) => other.setAttribute("aria-sort", j === i ? (direction > 0 ? "ascending" : "descending") : "none"));
      refresh();
    });
    cell.appendChild(button);
    head.appendChild(cell);
  });
  table.tHead.replaceChildren(head);
  table.addEventListener("click", (event) => { const line = event.target.closest("tbody tr[data-row]"); if (line) expand(line); });
  table.addEventListener("keydown", function (event) {
    const line = event.target.closest("tbody tr[data-row]");
    if (line && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); expand(line); }
  });
  search.addEventListener("input", () => { shown = PAGE; refresh(); });
  state.addEventListener("change", () => { shown = PAGE; refresh(); });
  more.addEventListener("click", () => { shown += 5 * PAGE; refresh(); });
  document.getElementById("download").addEventListener("click", function () {
    const quote = (value) => (/[",\n\r]/.test(text(value)) ? '"' + text(value).replace(/"/g, '""') + '"' : text(value));
    save("trials.csv", "text/csv", [columns.map((c) => c.name).map(quote).join(",")].concat(view.map((row) => row.cells.map(quote).join(","))).join("\r\n") + "\r\n");
  });
  refresh();
})();
