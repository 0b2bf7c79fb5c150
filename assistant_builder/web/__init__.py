"""Who reaches the page: addresses, names, logins, sessions, and what a request may carry. Knows nothing of gradio."""




