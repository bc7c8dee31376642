// Names and keyboard access that the theme leaves out; again after each page that it loads.
function name_parts() {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll(".md-code__nav").forEach((nav, number) => nav.setAttribute("aria-label", `Code ${number + 1}`));
  // A section and the list inside it have one title: landmarks need names of their own.
  document.querySelectorAll(".md-nav .md-nav").forEach((nav, number) => {
    nav.removeAttribute("aria-labelledby");
    nav.setAttribute("aria-label", `List ${number + 1}`);
  });
  document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code").forEach((part) => (part.tabIndex = 0));
}
document.addEventListener("DOMContentLoaded", name_parts);
name_parts();
new MutationObserver(name_parts).observe(document.documentElement, { childList: true, subtree: true });
