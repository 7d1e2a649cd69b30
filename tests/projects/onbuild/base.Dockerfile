FROM busybox
WORKDIR /usr/src/app
ONBUILD COPY requirements.txt ./
ONBUILD RUN wc -l < requirements.txt > count
ONBUILD COPY . .
ONBUILD ARG MODE=production
ONBUILD ENV MODE=$MODE
ONBUILD LABEL built=onbuild
CMD ["sh", "run.sh"]
