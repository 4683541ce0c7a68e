// The reading edition. No request, no cookie.

// Search quotes the pages that it found, which a browser refuses to fetch where the book is opened as a file.
DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== "file:";

// Explorables take their controls' colours from the text when they are touched; here, also when the theme changes.
new MutationObserver(() => {
  document.querySelectorAll(".explorable .stage").forEach((stage) => stage.dispatchEvent(new Event("pointerenter")));
}).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });

// A figure that a narrow page has shrunk is shown at full size when it is touched, and shrinks again.
document.addEventListener("click", (event) => {
  if (event.target.matches(".cell_output img")) event.target.classList.toggle("whole");
});

// On paper nothing can be unfolded, so what is folded is printed open, and folded again afterwards.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("article details:not([open])")];
  folded.forEach((details) => { details.open = true; });
});
addEventListener("afterprint", () => folded.forEach((details) => { details.open = false; }));
