"use strict";
// Figures that answer to a pointer, drawn over the printed ones; tables that sort. Without scripts the page reads as well.
(async () => {
  for (const table of document.querySelectorAll("table")) {
    const head = table.querySelector("tr");
    if (!head || table.rows.length < 4 || head.querySelector("td") || head.cells[0]?.colSpan > 1) continue;
    const rows = [...table.rows].slice(1);
    [...head.cells].forEach((cell, column) => {
      if (!cell.textContent.trim()) return;
      const button = document.createElement("button");
      button.className = "sort";
      button.append(...cell.childNodes);
      cell.append(button);
      const value = (row) => (row.cells[column]?.textContent ?? "").trim();
      const number = (text) => parseFloat(text.replace(/,/g, "").replace(/^×/, "").replace("−", "-"));
      button.addEventListener("click", () => {
        const up = cell.getAttribute("aria-sort") !== "descending";
        for (const other of head.cells) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", up ? "descending" : "ascending");
        const numeric = rows.some((row) => !isNaN(number(value(row))));
        const order = (a, b) => numeric
          ? (isNaN(number(a)) ? -Infinity : number(a)) - (isNaN(number(b)) ? -Infinity : number(b))
          : a.localeCompare(b);
        const sorted = [...rows].sort((a, b) => (up ? -1 : 1) * order(value(a), value(b)));
        rows[0].parentNode.append(...sorted);
      });
    });
  }

  const packed = document.getElementById("plotly");
  if (!packed || typeof DecompressionStream === "undefined") return;
  const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  const settings = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "" };

  const draw = (figure) => {
    const { names, plots } = JSON.parse(figure.querySelector("script").textContent);
    const screen = figure.querySelector(".screen");
    const show = (place) => Plotly.react(screen, plots[place].data, plots[place].layout, settings);
    if (names.length > 1) {
      const label = document.createElement("label");
      label.className = "choice";
      label.textContent = "Show ";
      const select = document.createElement("select");
      names.forEach((name, place) => select.add(new Option(name, place)));
      select.addEventListener("change", () => show(+select.value));
      label.append(select);
      screen.before(label);
    }
    figure.classList.add("drawn"); // before it is drawn, so that it has a width
    show(0);
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "600px" });
  document.querySelectorAll("figure.interactive").forEach((figure) => seen.observe(figure));
  document.documentElement.dataset.ready = "yes";
})();
