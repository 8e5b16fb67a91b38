/* What the page does by itself, without asking the server: app.py puts this into the head of the page. */
const page = (() => {
    const MAX_FILE_BYTES = 128 * 1024 * 1024;
    const root = document.documentElement;
    const find = selector => document.querySelector(selector);
    let redrawComparison = () => {};

    // What the visitor does is numbered: of two requests that overtake each other, the server knows which came later.
    let moments = 0;
    const stamp = (_, ...values) => [++moments, ...values];

    // ------------------------------------------------------------------------------------------- the overlay's look

    function look(apply) {
        return value => {
            apply(value);
            redrawComparison();
            return [];
        };
    }
    const setOpacity = look(value => root.style.setProperty('--tumor-opacity', value));
    const setColor = look(value => root.style.setProperty('--tumor-color', value));
    const setStyle = look(value => { find('#stage').dataset.style = value; });
    const setTruth = look(value => { find('#stage').dataset.truth = value; });

    // --------------------------------------------------------------------------------------------------- the tools

    /* Hold to hide, by mouse, finger or key; and the switch to the comparison of before and after. */
    function startTools(element, trigger) {
        const hide = element.querySelector('#hide'), compare = element.querySelector('#compare-button');
        const setHidden = hidden => {
            find('#stage').dataset.hidden = hidden;
            hide.setAttribute('aria-pressed', hidden);
        };
        const isTyping = event => /^(text|number|search)$/.test(event.target.type) || event.target.isContentEditable;
        const hides = event => (event.target === hide && [' ', 'Enter'].includes(event.key))
            || (event.key.toLowerCase() === 'h' && !event.ctrlKey && !event.metaKey && !event.altKey && !isTyping(event));
        hide.addEventListener('pointerdown', () => setHidden(true));
        hide.addEventListener('contextmenu', event => event.preventDefault());
        for (const name of ['pointerup', 'pointercancel', 'blur']) window.addEventListener(name, () => setHidden(false));
        document.addEventListener('keydown', event => { if (hides(event)) setHidden(true); });
        document.addEventListener('keyup', event => { if (hides(event)) setHidden(false); });

        redrawComparison = () => { if (find('#stage').dataset.compare === 'true') trigger('select'); };
        compare.addEventListener('click', () => {
            const on = find('#stage').dataset.compare !== 'true';
            find('#stage').dataset.compare = on;
            compare.setAttribute('aria-pressed', on);
            redrawComparison();
        });
        new MutationObserver(() => redrawComparison()).observe(find('#layers'), {childList: true, subtree: true});
    }

    /* The slice without and with its overlay, blended here, for gr.ImageSlider. */
    async function beforeAndAfter() {
        const before = find('#anatomy img');
        if (!before) return [null];
        const canvas = document.createElement('canvas'), layer = document.createElement('canvas');
        for (const one of [canvas, layer]) [one.width, one.height] = [before.naturalWidth, before.naturalHeight];
        const picture = canvas.getContext('2d'), style = getComputedStyle(root);
        picture.drawImage(before, 0, 0);
        picture.globalAlpha = style.getPropertyValue('--tumor-opacity');
        const shown = [...document.querySelectorAll('#stage .tumor')].find(one => getComputedStyle(one).display !== 'none');
        if (shown) picture.drawImage(await coloured(shown, layer), 0, 0);
        return [[before.src, canvas.toDataURL()].map(url => ({path: url, url, meta: {_type: 'gradio.FileData'}}))];
    }

    async function coloured(element, canvas) {
        if (element.tagName === 'IMG') return element;
        const style = getComputedStyle(element), shape = new Image();
        shape.src = style.maskImage.replace(/^url\("?|"?\)$/g, '');
        await shape.decode();
        const picture = canvas.getContext('2d');
        picture.drawImage(shape, 0, 0);
        picture.globalCompositeOperation = 'source-in';
        picture.fillStyle = style.backgroundColor;
        picture.fillRect(0, 0, canvas.width, canvas.height);
        return canvas;
    }

    // ------------------------------------------------------------------------------------------------------- files

    /* Files come from the dialog, by drop anywhere on the page, or from the clipboard. */
    function startDropBox(element, trigger, upload) {
        const input = element.querySelector('input'), hint = element.querySelector('[role=status]');
        const usualHint = hint.textContent;
        async function send(files) {
            if (!files.length) return;
            // They are chosen now, however long it takes to send them.
            const moment = ++moments, sent = [];
            mark(find('#examples'), null);
            try {
                for (const [index, file] of files.entries()) {
                    if (file.size > MAX_FILE_BYTES) throw new Error(`${file.name} is larger than 128 MB.`);
                    hint.textContent = `Uploading ${index + 1} of ${files.length} …`;
                    const {path} = await upload(file);
                    if (!path) throw new Error(`${file.name} could not be sent.`);
                    sent.push({path});
                }
                hint.textContent = usualHint;
                trigger('upload', {files: sent, moment});
            } catch (error) {
                hint.textContent = error.message;
            } finally {
                input.value = '';
            }
        }
        input.addEventListener('change', () => send([...input.files]));
        document.addEventListener('paste', event => send([...event.clipboardData.files]));
        document.addEventListener('dragover', event => {
            event.preventDefault();
            element.classList.add('dragging');
        });
        document.addEventListener('dragleave', event => { if (!event.relatedTarget) element.classList.remove('dragging'); });
        document.addEventListener('drop', event => {
            event.preventDefault();
            element.classList.remove('dragging');
            send([...event.dataTransfer.files]);
        });
    }

    function save(file) {
        const link = document.createElement('a');
        link.href = file.url;
        link.download = file.orig_name;
        link.click();
        return [];
    }

    // ----------------------------------------------------------------------------------------------------- choices

    /* Buttons with a data-index, of the examples or of the gallery, of which the chosen one stays marked; or a list. */
    function startChoices(element, trigger) {
        element.addEventListener('change', event => {
            if (event.target.matches('select'))
                trigger('select', {index: event.target.selectedIndex, moment: ++moments});
        });
        element.addEventListener('click', event => {
            const button = event.target.closest('button[data-index]');
            if (!button) return;
            mark(element, button.dataset.index);
            trigger('select', {index: Number(button.dataset.index), moment: ++moments});
        });
    }

    function mark(element, index) {
        for (const button of element.querySelectorAll('[aria-pressed]'))
            button.setAttribute('aria-pressed', button.dataset.index === index);
    }

    return {
        stamp, setOpacity, setColor, setStyle, setTruth, startTools, beforeAndAfter, startDropBox, save, startChoices,
    };
})();
