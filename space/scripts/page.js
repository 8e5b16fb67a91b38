/* What the page does by itself, without asking the server: app.py puts these files into its head, this one first. */
const page = {};
(() => {
    const find = selector => document.querySelector(selector);

    /* What a request says of the page (`Mark` in requests.py). What the visitor does is numbered: of two requests that
       overtake each other, the server knows which came later. */
    let moments = 0;
    const shown = () => find('#anatomy .slice')?.dataset.shown ?? '';
    function mark() {
        // What was wrong with the last request is not wrong with this one; if it is, it is said once.
        for (const close of document.querySelectorAll('.toast-body.error [data-testid=toast-close]')) close.click();
        return {moment: ++moments, shown: shown()};
    }
    const stamp = (_, ...values) => [mark(), ...values];

    /* A sentence of the browser's own, below the box for files. */
    let usualHint;
    function say(sentence) {
        const hint = find('#drop-hint');
        usualHint ??= hint.textContent;
        hint.textContent = sentence ?? usualHint;
    }

    /* Give a slider a value, as if somebody had typed it. */
    function setSlider(selector, value) {
        const input = find(`${selector} input[type=number]`);
        input.value = value;
        input.dispatchEvent(new Event('input', {bubbles: true}));
    }

    const isTyping = ({target}) => /^(text|number|search)$/.test(target.type) || target.isContentEditable;
    const isKey = (event, ...keys) => keys.includes(event.key.toLowerCase())
        && !event.ctrlKey && !event.metaKey && !event.altKey && !isTyping(event);

    function save(file) {
        const link = document.createElement('a');
        link.href = file.url;
        link.download = file.orig_name;
        link.click();
        return [];
    }

    Object.assign(page, {find, shown, mark, stamp, say, setSlider, isTyping, isKey, save});
})();
