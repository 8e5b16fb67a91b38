/* Choices among examples and slices, links to examples, and what else follows from what is on the stage. */
(() => {
    const {find, mark, say, shown} = page;
    const LINK = 'example';

    /* Buttons with a data-index, of the examples or of the gallery, of which the chosen one stays marked; or a list. */
    function startChoices(element, trigger) {
        element.addEventListener('change', event => {
            if (event.target.matches('select')) trigger('select', {index: event.target.selectedIndex, ...mark()});
        });
        element.addEventListener('click', event => {
            const button = event.target.closest('button[data-index]');
            if (!button) return;
            press(`#${element.closest('[id]').id}`, button.dataset.index);
            trigger('select', {index: Number(button.dataset.index), ...mark()});
        });
    }

    function startExamples(element, trigger) {
        startChoices(element, trigger);
        const name = new URL(location.href).searchParams.get(LINK);
        if (name === null || name === shown()) return;
        const button = exampleNamed(name);
        if (button) button.click();
        else say(`There is no example called ${name}; choose one here.`);
    }

    function press(place, index) {
        for (const button of document.querySelectorAll(`${place} [aria-pressed]`))
            button.setAttribute('aria-pressed', button.dataset.index === index);
    }

    const exampleNamed = name => [...document.querySelectorAll('#examples button')].find(one => one.dataset.name === name);
    const markExample = name => press('#examples', exampleNamed(name)?.dataset.index ?? null);

    /* Mark what is on the stage, whatever was chosen. */
    function showChosen() {
        markExample(shown());
        press('#overview', find('#anatomy .slice')?.dataset.index ?? null);
        keepAddress();
        return [];
    }

    /* Once the example is there that the address names, it names what comes after it, for whoever loads it again. */
    let isThere = false;
    function keepAddress() {
        const address = new URL(location.href), name = address.searchParams.get(LINK);
        isThere ||= name === shown();
        if (!isThere || name === null) return;
        if (exampleNamed(shown())) address.searchParams.set(LINK, shown());
        else address.searchParams.delete(LINK);
        history.replaceState(history.state, '', address);
    }

    async function copyLink(button) {
        const link = `${location.origin}${location.pathname}?${LINK}=${encodeURIComponent(shown())}`;
        const before = button.textContent;
        try {
            await navigator.clipboard.writeText(link);
        } catch {
            // Not allowed in a frame, or without TLS.
            const box = document.body.appendChild(document.createElement('textarea'));
            box.value = link;
            box.select();
            document.execCommand('copy');
            box.remove();
            button.focus();
        }
        button.textContent = 'Copied';
        setTimeout(() => { button.textContent = before; }, 2000);
    }

    /* Read the verdict aloud when it changes; sliders change it often. */
    let spoken, waiting;
    function announce(report) {
        clearTimeout(waiting);
        waiting = setTimeout(() => {
            const title = find('#anatomy .caption span')?.textContent ?? '';
            const sentence = `${title} ${report.querySelector('.verdict')?.textContent ?? ''}`.trim();
            if (sentence !== spoken) find('#said').textContent = spoken = sentence;
        }, 500);
    }

    Object.assign(page, {startChoices, startExamples, markExample, showChosen, copyLink, announce});
})();
