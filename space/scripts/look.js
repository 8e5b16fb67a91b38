/* The overlay's look; hiding it, and comparing before with after. */
(() => {
    const {find, isKey, setSlider} = page;
    const root = document.documentElement;

    const look = apply => value => {
        apply(value);
        return [];
    };
    const setOpacity = look(value => root.style.setProperty('--tumor-opacity', value));
    const setColor = look(value => root.style.setProperty('--tumor-color', value));
    const setStyle = look(value => { find('#stage').dataset.style = value; });
    const setTruth = look(value => { find('#stage').dataset.truth = value; });

    function startLook(tools) {
        const hide = tools.querySelector('#hide'), compare = tools.querySelector('#compare-button');
        const setHidden = hidden => {
            find('#stage').dataset.hidden = hidden;
            hide.setAttribute('aria-pressed', hidden);
        };
        const hides = event => (event.target === hide && [' ', 'Enter'].includes(event.key)) || isKey(event, 'h');
        hide.addEventListener('pointerdown', () => setHidden(true));
        hide.addEventListener('contextmenu', event => event.preventDefault());
        for (const name of ['pointerup', 'pointercancel', 'blur']) window.addEventListener(name, () => setHidden(false));
        document.addEventListener('keydown', event => { if (hides(event)) setHidden(true); });
        document.addEventListener('keyup', event => { if (hides(event)) setHidden(false); });

        compare.addEventListener('click', () => {
            const on = find('#stage').dataset.compare !== 'true';
            find('#stage').dataset.compare = on;
            compare.setAttribute('aria-pressed', on);
            if (on) find('#split').focus();
        });
        // In steps of a fifth: up with O and, after the whole, from nothing again; down with Shift.
        document.addEventListener('keydown', event => {
            if (!isKey(event, 'o')) return;
            const step = Math.round(5 * find('#opacity input[type=range]').value) + (event.shiftKey ? -1 : 1);
            setSlider('#opacity', ((step + 6) % 6) / 5);
        });
    }

    /* Of several classes, those that are not to be seen: their numbers stand in `data-without` of the stage. */
    function startLegend(report) {
        report.addEventListener('change', event => {
            if (!event.target.closest('.legend')) return;
            const hidden = report.querySelectorAll('.legend input:not(:checked)');
            find('#stage').dataset.without = [...hidden].map(box => box.value).join(' ');
        });
    }

    /* A new report shows all of them; what was hidden stays so. */
    function followLegend(report) {
        const without = (find('#stage').dataset.without ?? '').split(' ');
        for (const box of report.querySelectorAll('.legend input')) box.checked = !without.includes(box.value);
    }

    /* The line between before, on its left, and after. */
    function startSplit(glass) {
        const split = glass.querySelector('#split');
        split.addEventListener('input', () => find('#stage').style.setProperty('--split', `${split.value}%`));
    }

    Object.assign(page, {setOpacity, setColor, setStyle, setTruth, startLook, startLegend, followLegend, startSplit});
})();
