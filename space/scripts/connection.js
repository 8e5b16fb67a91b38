/* A server that cannot be reached is said in one sentence, and what the page shows stays.

   By itself, Gradio would load the page anew as soon as the server is back. */
(() => {
    const AWAY = 'The server cannot be reached; what the page shows stays, so please try again in a minute.';
    const reach = window.fetch.bind(window);
    const event = sentence => `data: ${JSON.stringify({msg: 'unexpected_error', message: sentence, success: false})}\n\n`;
    const refused = () => new Response(JSON.stringify({detail: AWAY}), {status: 500}); // to Gradio, 503 is a full queue
    const events = body => new Response(body, {headers: {'content-type': 'text/event-stream'}});

    window.fetch = async (input, options) => {
        const {pathname} = new URL(input?.url ?? input, location.href);
        // By which Gradio asks whether it should load the page anew.
        if (pathname.endsWith('/gradio_api/app_id')) return refused();
        const isStream = pathname.endsWith('/gradio_api/queue/data');
        if (!isStream && !/\/gradio_api\/(queue\/join|upload)$/.test(pathname)) return reach(input, options);
        try {
            const answer = await reach(input, options);
            // Of a proxy before it; its own answers are JSON.
            const isJson = answer.headers.get('content-type')?.includes('json');
            if ([502, 503, 504].includes(answer.status) && !isJson) throw new TypeError(answer.statusText);
            return isStream && answer.body ? events(toTheEnd(answer.body)) : answer;
        } catch (error) {
            if (error.name === 'AbortError') throw error;
            return isStream ? events(event(AWAY)) : refused();
        }
    };

    /* The same events; where they break off, the last one says so. */
    function toTheEnd(body) {
        const reader = body.getReader(), text = new TextDecoder(), bytes = new TextEncoder();
        let last = '';
        return new ReadableStream({
            async pull(controller) {
                try {
                    const {done, value} = await reader.read();
                    if (!done) {
                        last = (last + text.decode(value, {stream: true})).slice(-200);
                        controller.enqueue(value);
                        return;
                    }
                } catch (error) {
                    if (error.name === 'AbortError') return controller.error(error);
                    last = '';
                }
                if (!last.includes('"close_stream"')) controller.enqueue(bytes.encode(event(AWAY)));
                controller.close();
            },
            cancel: reason => reader.cancel(reason),
        });
    }

    page.AWAY = AWAY;
})();
