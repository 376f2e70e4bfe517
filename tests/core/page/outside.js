// Texts that stick out into the page's margin: a list of them, empty where all is well. What scrolls by itself may.
(() => {
  const out = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || element.closest(".hidden, .scroll, .heats, .skip") || !element.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (box.left < 14 || box.right > innerWidth - 14) out.push([node.textContent.slice(0, 40), box.left, box.right]);
  }
  return out;
})();
