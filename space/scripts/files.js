/* Files and folders: from the dialogs, by drop anywhere on the page, from the clipboard, or by the address of a picture. */
(() => {
    const {mark, say, isTyping} = page;
    const MAX_FILE_BYTES = 128 * 1024 * 1024;

    function startFiles(element, trigger, upload) {
        async function send(chosen) {
            // They are chosen now, however long it takes to find and to send them.
            const now = mark(), sent = [];
            try {
                const files = (await chosen).filter(file => !file.name.startsWith('.'));
                if (!files.length) throw new Error('There are no files in what was dropped.');
                page.markExample(null);
                for (const [index, file] of files.entries()) {
                    if (file.size > MAX_FILE_BYTES) throw new Error(`${file.name} is larger than 128 MB.`);
                    say(`Uploading ${index + 1} of ${files.length} …`);
                    const {path} = (await upload(file)) ?? {};
                    if (!path) throw new Error(`${file.name} could not be sent.`);
                    sent.push({path});
                }
                say(null);
                trigger('upload', {files: sent, ...now});
            } catch (error) {
                say(error.message.includes(page.AWAY) ? page.AWAY : error.message);
                page.showChosen();
            }
        }
        for (const input of element.querySelectorAll('input'))
            input.addEventListener('change', () => {
                const files = [...input.files];
                input.value = '';
                if (files.length) send(files);
            });
        document.addEventListener('paste', event => {
            // Text goes into the box that it is typed into.
            const chosen = isTyping(event) && !event.clipboardData.files.length ? null : takeOut(event.clipboardData);
            if (chosen) send(chosen);
        });
        // Pictures of the page itself are no files to open.
        document.addEventListener('dragstart', event => { if (event.target.tagName === 'IMG') event.preventDefault(); });
        document.addEventListener('dragover', event => {
            event.preventDefault();
            element.classList.add('dragging');
        });
        document.addEventListener('dragleave', event => { if (!event.relatedTarget) element.classList.remove('dragging'); });
        document.addEventListener('drop', event => {
            event.preventDefault();
            element.classList.remove('dragging');
            const chosen = takeOut(event.dataTransfer);
            if (chosen) send(chosen);
        });
    }

    /* The files of a drop or a paste; null if there is nothing to take. They have to be asked for at once. */
    function takeOut(transfer) {
        const entries = [...transfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
        if (entries.some(entry => entry.isDirectory)) return Promise.all(entries.map(filesIn)).then(files => files.flat());
        if (transfer.files.length) return [...transfer.files];
        const [text] = (transfer.getData('text/uri-list') || transfer.getData('text/plain')).trim().split(/\s/);
        return /^(https?|data|blob):./.test(text) ? download(text) : null;
    }

    async function filesIn(entry) {
        if (entry.isFile) return [await new Promise((found, failed) => entry.file(found, failed))];
        const reader = entry.createReader(), entries = [];
        // It gives a hundred at a time, and none at the end.
        for (let some; !some || some.length; entries.push(...some))
            some = await new Promise((found, failed) => reader.readEntries(found, failed));
        return (await Promise.all(entries.map(filesIn))).flat();
    }

    /* The picture at an address, if whoever has it lets other pages read it. */
    async function download(address) {
        const {host, pathname} = new URL(address), where = host || 'The address';
        const name = (host && pathname.split('/').pop().slice(-100)) || 'picture';
        let answer;
        try {
            answer = await fetch(address);
        } catch {
            throw new Error(`${where} does not let this page read the picture; save it, and drop the file here.`);
        }
        if (!answer.ok) throw new Error(`${where} answers ${answer.status}; save the picture, and drop the file here.`);
        return [new File([await answer.blob()], name)];
    }

    page.startFiles = startFiles;
})();
